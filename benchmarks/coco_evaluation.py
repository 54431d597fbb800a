"""Time and memory of the COCO evaluation beside pycocotools.

    python benchmarks/coco_evaluation.py [--images 2000] [--classes 80] [--alone]

Made-up annotations and detections of COCO's shape: 7 things in an image, one in a hundred a crowd, 100 detections, a
third of them near a thing, the others anywhere. Both evaluate the same detections, and must agree in every bit. Memory
is what each adds to the peak of the process, so a run measures one size.
"""

import argparse
import contextlib
import io
import resource
import sys
import time

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn_benchmark.evaluation.coco import CocoEvaluator
from maskrcnn_benchmark.structures.bounding_box import BoxList

THINGS, PER_IMAGE, SIDE = 7, 100, 640


def make(num_images: int, num_classes: int, seed: int = 0) -> tuple[COCO, dict[int, BoxList]]:
    """(annotations, detections by image id)."""
    generator = np.random.default_rng(seed)
    annotations, detections = [], {}
    for image_id in range(1, num_images + 1):
        things, classes = _boxes(generator, THINGS), generator.integers(1, num_classes + 1, THINGS)
        for box, label in zip(things.tolist(), classes.tolist(), strict=True):
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label, "bbox": box}
            annotation |= {"area": 0.7 * box[2] * box[3], "iscrowd": int(generator.random() < 0.01)}
            annotations.append(annotation)
        near = generator.integers(0, THINGS, PER_IMAGE // 3)
        moved = things[near] * generator.normal(1, 0.05, (len(near), 4))
        others = PER_IMAGE - len(near)
        boxes = np.concatenate([moved, _boxes(generator, others)])
        found = BoxList(torch.tensor(boxes), (SIDE, SIDE), "xywh")
        labels = np.concatenate([classes[near], generator.integers(1, num_classes + 1, others)])
        found.add_field("labels", torch.tensor(labels))
        found.add_field("scores", torch.tensor(generator.random(PER_IMAGE), dtype=torch.float32))
        detections[image_id] = found
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": image_id, "width": SIDE, "height": SIDE} for image_id in detections],
        "categories": [{"id": label, "name": f"class {label}"} for label in range(1, num_classes + 1)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco, detections


def _boxes(generator: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) x, y, width, height."""
    return np.concatenate(
        [generator.uniform(0, 400, (count, 2)), np.exp(generator.uniform(2, 5.5, (count, 2)))], axis=1
    )


def from_arrays(coco: COCO, detections: dict[int, BoxList]) -> tuple[float, CocoEvaluator, list[float]]:
    """(seconds from collected detections to the figures, the evaluator, the figures)."""
    evaluator = CocoEvaluator(coco, {label: label for label in coco.cats})
    for image_id, found in detections.items():
        evaluator.update(image_id, found)
    begin = time.perf_counter()
    metrics = evaluator.summarize()
    return time.perf_counter() - begin, evaluator, [*metrics.values(), *evaluator.recalls.values()]


def reference(coco: COCO, results: list[dict]) -> tuple[float, COCOeval]:
    """(seconds of pycocotools from a list of results to the figures, its evaluation)."""
    begin = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return time.perf_counter() - begin, evaluation


def peak_gib() -> float:
    """Peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def row(num_images: int, num_classes: int, is_alone: bool) -> str:
    """One line of the table."""
    coco, detections = make(num_images, num_classes)
    before = peak_gib()
    seconds, evaluator, figures = from_arrays(coco, detections)
    memory = peak_gib() - before
    line = (
        f"| {num_images} | {num_images * PER_IMAGE} | {num_classes} | {figures[0]:.4f} | {seconds:.2f} | {memory:.2f} "
    )
    if is_alone:
        return f"{line}| - | - | - | - |"
    before = peak_gib()
    reference_s, expected = reference(coco, evaluator.results())
    memory = peak_gib() - before
    is_equal = np.array_equal(evaluator.precision, expected.eval["precision"]) and figures == expected.stats.tolist()
    return f"{line}| {reference_s:.1f} | {memory:.2f} | {reference_s / seconds:.0f} | {'yes' if is_equal else 'NO'} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="(%(default)s)")
    parser.add_argument("--classes", type=int, default=80, help="(%(default)s)")
    parser.add_argument("--alone", action="store_true", help="without pycocotools")
    args = parser.parse_args()
    print("| images | detections | classes | AP | this package s | GiB | pycocotools s | GiB | times | equal |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    print(row(args.images, args.classes, args.alone))
    print(f"peak memory {peak_gib():.2f} GiB, made-up data and imports included; Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
