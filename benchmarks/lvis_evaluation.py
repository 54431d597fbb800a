"""Time and memory of the LVIS evaluation, alone and beside lvis-api.

    python benchmarks/lvis_evaluation.py [--images 20000] [--reference PYTHON]

Made-up annotations and detections of LVIS's shape: 1,203 classes, 12 things of 4 classes in an image, 300 detections,
a third of them near a thing, a third of the classes shown or verified absent, the others of any class. PYTHON is an
interpreter with lvis 0.5.3 and numpy below 1.24; both then evaluate the same list of results, and must agree.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from maskrcnn_benchmark.evaluation.lvis import LvisEvaluator
from maskrcnn_benchmark.evaluation.lvis_annotations import LVIS

CLASSES, THINGS, SHOWN, ABSENT, PER_IMAGE = 1203, 12, 4, 12, 300
REFERENCE = """
import json, sys, time
from lvis import LVIS, LVISEval, LVISResults
folder, limit = sys.argv[1], int(sys.argv[2])
truth = LVIS(folder + "/annotations.json")
results = json.load(open(folder + "/results.json"))
begin = time.perf_counter()
evaluation = LVISEval(truth, LVISResults(truth, results, max_dets=limit), "bbox")
evaluation.params.max_dets = limit
evaluation.run()
seconds = time.perf_counter() - begin
json.dump([seconds, evaluation.get_results()], open(folder + "/reference.json", "w"))
"""


def make(num_images: int, seed: int = 0) -> tuple[dict, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """(annotation file, for every image boxes xyxy (300, 4), scores (300,) and labels (300,))."""
    generator = np.random.default_rng(seed)
    popularity = 1 / np.arange(1, CLASSES + 1)
    popularity /= popularity.sum()
    images, annotations, detections = [], [], []
    for image_id in range(1, num_images + 1):
        drawn = generator.choice(CLASSES, SHOWN + ABSENT, replace=False, p=popularity) + 1
        shown, absent = drawn[:SHOWN], drawn[SHOWN:]
        corner = generator.uniform(0, 400, (THINGS, 2))
        boxes = np.concatenate([corner, np.exp(generator.uniform(2, 5.5, (THINGS, 2)))], axis=1)
        labels = generator.choice(shown, THINGS)
        record = {"id": image_id, "width": 640, "height": 640, "neg_category_ids": absent.tolist()}
        images.append(record | {"not_exhaustive_category_ids": shown[:1].tolist()})
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label, "bbox": box}
            annotations.append(annotation | {"area": 0.7 * box[2] * box[3]})
        detections.append(_detections(generator, boxes, labels, drawn))
    letters = ["f" if number < 400 else "c" if number < 860 else "r" for number in range(CLASSES)]
    categories = [
        {"id": number + 1, "name": f"class {number + 1}", "frequency": letter} for number, letter in enumerate(letters)
    ]
    return {"images": images, "annotations": annotations, "categories": categories, "info": {}}, detections


def _detections(
    generator: np.random.Generator, boxes: np.ndarray, labels: np.ndarray, judged: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    third = PER_IMAGE // 3
    near = generator.integers(0, THINGS, third)
    moved = boxes[near] * generator.normal(1, 0.05, (third, 4))
    other = np.concatenate(
        [generator.uniform(0, 400, (2 * third, 2)), np.exp(generator.uniform(2, 5.5, (2 * third, 2)))], axis=1
    )
    xywh = np.concatenate([moved, other])
    any_class = generator.integers(1, CLASSES + 1, third)
    found = np.concatenate([labels[near], generator.choice(judged, third), any_class])
    xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    return xyxy.astype(np.float32), generator.random(PER_IMAGE).astype(np.float32), found


def from_arrays(annotations: dict, detections: list, is_fixed: bool) -> tuple[float, dict[str, float]]:
    """(seconds from the arrays of every image to the figures, figures)."""
    truth = LVIS(annotations)
    begin = time.perf_counter()
    evaluator = LvisEvaluator(truth, is_fixed=is_fixed)
    for image_id, (boxes, scores, labels) in enumerate(detections, start=1):
        evaluator.update_arrays(image_id, boxes, scores, labels)
    metrics = evaluator.summarize()
    return time.perf_counter() - begin, metrics


def beside_reference(annotations: dict, detections: list, is_fixed: bool, python: str) -> tuple[float, float, float]:
    """(seconds of this package, seconds of lvis-api, largest difference of a figure) from one list of results."""
    truth = LVIS(annotations)
    evaluator = LvisEvaluator(truth, is_fixed=is_fixed)
    for image_id, (boxes, scores, labels) in enumerate(detections, start=1):
        evaluator.update_arrays(image_id, boxes, scores, labels)
    results = evaluator.results()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "annotations.json").write_text(json.dumps(annotations))
        (folder / "results.json").write_text(json.dumps(results))
        command = [python, "-c", REFERENCE, name, "-1" if is_fixed else "300"]
        subprocess.run(command, check=True, capture_output=True)
        reference_s, expected = json.loads((folder / "reference.json").read_text())
    begin = time.perf_counter()
    evaluator = LvisEvaluator(truth, is_fixed=is_fixed)
    evaluator.update_results(results)
    metrics = evaluator.summarize()
    seconds = time.perf_counter() - begin
    return seconds, reference_s, max(abs(metrics[figure] - value) for figure, value in expected.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="(%(default)s)")
    parser.add_argument("--reference", metavar="PYTHON", help="interpreter with lvis 0.5.3")
    args = parser.parse_args()
    annotations, detections = make(args.images)
    print("| what | images | detections | AP | this package s | lvis 0.5.3 s | times | largest difference |")
    print("|---|---|---|---|---|---|---|---|")
    for kind in ("fixed", "standard"):
        size = f"| {args.images} | {args.images * PER_IMAGE}"
        seconds, metrics = from_arrays(annotations, detections, kind == "fixed")
        print(f"| {kind} AP, from arrays {size} | {metrics['AP']:.4f} | {seconds:.1f} | - | - | - |", flush=True)
        if args.reference:
            ours, theirs, difference = beside_reference(annotations, detections, kind == "fixed", args.reference)
            print(
                f"| {kind} AP, from a list of results {size} | {metrics['AP']:.4f} | {ours:.1f} | {theirs:.1f} "
                f"| {theirs / ours:.0f} | {difference:.0e} |",
                flush=True,
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.2f} GiB, made-up data and imports included; Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
