"""Every number of a COCO evaluation beside pycocotools', on sets that look for trouble; no tolerance anywhere."""

import contextlib
import copy
import importlib.util
import io
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn_benchmark.evaluation.coco import CocoEvaluator
from maskrcnn_benchmark.evaluation.greedy_matching import box_overlaps
from maskrcnn_benchmark.structures.bounding_box import BoxList

SIDES = (0, 4, 16, 31.99, 32, 48, 95.5, 96, 128)  # 32 x 32 and 96 x 96 are the bounds of the area ranges
SIZE = (400, 300)


class Kind(NamedTuple):
    """What the random sets of a kind are made of.

    Attributes:
        category_ids: of the file. image_ids: likewise; the last is never given to the evaluator.
        truths, detections: at most so many in an image. levels: different scores.
        crowd: share of the annotations. copies: share of the detections that lie on a thing.
        annotation_ids: "from 1", "from 0", "twice", or "texts".
        is_rough: numbers are multiples of 4, so that overlaps are often equal. sides: of boxes, in pixels. spread: of
            their corners.
        has_all_keys: annotations have `area` and `iscrowd`. odd_scores: some of the scores.
    """

    category_ids: tuple[Any, ...] = (3, 1, 8)
    image_ids: tuple[Any, ...] = (4, 19, 7, 0, 2, 5)
    truths: int = 8
    detections: int = 30
    levels: int = 7
    crowd: float = 0.15
    copies: float = 0.6
    annotation_ids: str = "from 1"
    is_rough: bool = True
    sides: tuple[float, ...] = SIDES
    spread: float = 200
    has_all_keys: bool = True
    odd_scores: tuple[float, ...] = ()


KINDS = {
    "rough": Kind(),
    "fine": Kind(is_rough=False, levels=10_000),
    "equal scores": Kind(levels=1),
    "equal overlaps": Kind((1,), sides=(32,), spread=64, copies=0.2, levels=1000),
    "one class": Kind(category_ids=(0,), truths=12),
    "more than 100": Kind(category_ids=(5, 2), image_ids=(1, 2, 3), detections=400, truths=15),
    "many classes": Kind(category_ids=tuple(range(60, 0, -1)), image_ids=(1, 2), detections=150, truths=40),
    "nothing found": Kind(detections=0),
    "nothing there": Kind(truths=0),
    "only crowds": Kind(crowd=1.0),
    "no crowds": Kind(crowd=0.0, copies=0.95),
    "from 0": Kind(annotation_ids="from 0", image_ids=(1, 2, 3), category_ids=(1, 2), truths=4),
    "from 0, crowds": Kind(annotation_ids="from 0", image_ids=(1, 2, 3), category_ids=(1,), truths=5, crowd=0.6),
    "ids twice": Kind(annotation_ids="twice"),
    "text ids": Kind(("dog", "a cat", "10"), ("b", "a", "10", "9"), annotation_ids="texts"),
    "without area": Kind(has_all_keys=False),
    "odd scores": Kind(odd_scores=(np.nan, np.inf, -np.inf, -0.0, 0.0)),
}
CASES = 14  # of each kind


def draw_boxes(generator: np.random.Generator, count: int, kind: Kind) -> np.ndarray:
    """(count, 4) x, y, width, height."""
    sides = generator.choice(kind.sides, (count, 2))
    corners = generator.uniform(0, kind.spread, (count, 2))
    if kind.is_rough:
        return np.concatenate([corners // 8 * 8, sides], axis=1)
    return np.concatenate([corners, sides * generator.uniform(0.9, 1.1, (count, 2))], axis=1)


def draw_truth(generator: np.random.Generator, kind: Kind) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image_id in kind.image_ids:
        for box in draw_boxes(generator, int(generator.integers(0, kind.truths + 1)), kind).tolist():
            number = len(annotations) + (kind.annotation_ids == "from 1")
            if kind.annotation_ids == "twice":
                number = int(generator.integers(1, 25))
            category = kind.category_ids[int(generator.integers(0, len(kind.category_ids)))]
            area = float(generator.choice([box[2] * box[3], 0.7 * box[2] * box[3], 32**2, 96**2, 0]))
            record = {"id": str(number) if kind.annotation_ids == "texts" else number, "image_id": image_id}
            record |= {"category_id": category, "bbox": box}
            keys = {"area": area, "iscrowd": int(generator.random() < kind.crowd)}
            annotations.append(record | (keys if kind.has_all_keys else {}))
    return {
        "images": [{"id": image_id, "width": SIZE[0], "height": SIZE[1]} for image_id in kind.image_ids],
        "categories": [{"id": category, "name": f"thing {category}"} for category in kind.category_ids],
        "annotations": annotations,
        "info": {},
    }


def draw_detections(generator: np.random.Generator, kind: Kind, content: dict[str, Any]) -> dict[Any, BoxList]:
    """Of all images but the last, some without any; labels count the categories from 1."""
    predictions = {}
    for image_id in kind.image_ids[:-1]:
        count = int(generator.integers(0, kind.detections + 1))
        boxes, labels = draw_boxes(generator, count, kind), generator.integers(1, len(kind.category_ids) + 1, count)
        things = [record for record in content["annotations"] if record["image_id"] == image_id]
        for row in np.flatnonzero(generator.random(count) < kind.copies) if things else ():
            thing = things[int(generator.integers(0, len(things)))]
            moved = generator.choice([0, 0, 4, -8], 4) if kind.is_rough else generator.normal(0, 3, 4)
            boxes[row] = np.maximum(0, np.array(thing["bbox"]) + moved)
            labels[row] = kind.category_ids.index(thing["category_id"]) + 1
        predictions[image_id] = found = BoxList(torch.tensor(boxes), SIZE, "xywh")
        found.add_field("labels", torch.tensor(labels))
        scores = generator.integers(-1, kind.levels, count) / kind.levels
        if kind.odd_scores:
            scores = np.where(generator.random(count) < 0.3, generator.choice(kind.odd_scores, count), scores)
        found.add_field("scores", torch.tensor(scores, dtype=torch.float32))
    return predictions


def draw(kind: Kind, seed: int) -> tuple[dict[str, Any], dict[Any, BoxList]]:
    """(annotation file, predictions by image id)."""
    generator = np.random.default_rng(seed)
    content = draw_truth(generator, kind)
    return content, draw_detections(generator, kind, content)


def index_of(content: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def reference(
    content: dict[str, Any], kind: Kind, predictions: dict[Any, BoxList], chosen: Sequence[Any] | None
) -> tuple[COCOeval, str]:
    """pycocotools' evaluation of results that are written here, and the summary that it prints."""
    content = copy.deepcopy(content)
    for record in content["annotations"]:
        record.setdefault("iscrowd", 0)
        record.setdefault("area", record["bbox"][2] * record["bbox"][3])
    results = [
        {"image_id": image_id, "category_id": kind.category_ids[label - 1], "bbox": box, "score": score}
        for image_id, found in predictions.items()
        for box, label, score in zip(
            found.bbox.tolist(), found.get_field("labels").tolist(), found.get_field("scores").tolist(), strict=True
        )
    ]
    truth = index_of(content)
    with contextlib.redirect_stdout(io.StringIO()):
        expected = COCOeval(truth, truth.loadRes(results) if results else COCO(), "bbox")
        expected.params.imgIds = list(predictions)
        expected.params.catIds = kind.category_ids if chosen is None else chosen
        expected.evaluate()
        expected.accumulate()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        expected.summarize()
    return expected, printed.getvalue()


def assert_equal_to_reference(
    content: dict[str, Any],
    kind: Kind,
    predictions: dict[Any, BoxList],
    caplog: pytest.LogCaptureFixture,
    chosen: Sequence[Any] | None = None,
) -> CocoEvaluator:
    expected, printed = reference(content, kind, predictions, chosen)
    evaluator = CocoEvaluator(index_of(content), dict(enumerate(kind.category_ids, start=1)), chosen)
    for image_id, found in predictions.items():
        evaluator.update(image_id, found)
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="maskrcnn_benchmark.evaluation.coco"):
        metrics = evaluator.summarize()
    assert np.array_equal(evaluator.precision, expected.eval["precision"])
    assert [*metrics.values(), *evaluator.recalls.values()] == expected.stats.tolist()
    assert printed in caplog.messages
    return evaluator


@pytest.mark.parametrize("name", ["rough", "fine"])
def test_every_overlap_is_that_of_pycocotools(name):
    generator = np.random.default_rng(0)
    boxes, things = (draw_boxes(generator, count, KINDS[name]) for count in (300, 200))
    far = -(2.0**57)  # so far out that the rounded union is 0
    boxes[0], things[0] = [far, far, 16, 9], [far, far, 11.2, 10]
    is_crowd = np.arange(len(things)) % 3 == 1
    expected = mask.iou(boxes, things, is_crowd.astype(np.uint8))
    pairs = np.repeat(boxes, len(things), axis=0), np.tile(things, (len(boxes), 1))
    overlaps = box_overlaps(*pairs, np.tile(is_crowd, len(boxes))).reshape(expected.shape)
    assert np.array_equal(overlaps, expected) and np.isinf(overlaps[0, 0]) and np.unique(overlaps).size > 300


@pytest.mark.parametrize("name", KINDS)
def test_every_number_is_that_of_pycocotools(name, caplog):
    kind, figures = KINDS[name], set()
    for seed in range(CASES):
        content, predictions = draw(kind, seed)
        evaluator = assert_equal_to_reference(content, kind, predictions, caplog)
        figures.update(np.unique(evaluator.precision).tolist())
    assert len(figures) > 6 or name in ("nothing found", "nothing there", "only crowds")


def test_every_number_of_a_larger_set(caplog):
    kind = Kind(tuple(range(1, 13)), tuple(range(80)), truths=20, detections=200, levels=1000, is_rough=False)
    content, predictions = draw(kind, 0)
    evaluator = assert_equal_to_reference(content, kind, predictions, caplog)
    assert 0.05 < evaluator.mean_precision().mean()


def test_every_number_of_chosen_categories(caplog):
    kind = KINDS["rough"]
    for seed in range(4):
        content, predictions = draw(kind, seed)
        evaluator = assert_equal_to_reference(content, kind, predictions, caplog, chosen=[8, 3])
        assert list(evaluator.table["AP"]) == ["thing 3", "thing 8"]


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("is_found", [True, False])
def test_every_number_beside_boxes_without_end(caplog, value, is_found):
    kind = KINDS["fine"]
    for seed in range(3):
        content, predictions = draw(kind, seed)
        found = predictions[4]
        if is_found:
            found.bbox[::2, 2] = value
            found.bbox[1::3, 0] = value
        else:
            content["annotations"][1]["bbox"][3] = value
        assert_equal_to_reference(content, kind, predictions if is_found or seed else {4: found[:0]}, caplog)


def test_ids_of_annotations_may_be_words(caplog):
    """pycocotools fails when something with such an id is found."""
    kind = KINDS["rough"]
    content, predictions = draw(kind, 0)
    evaluator = assert_equal_to_reference(content, kind, predictions, caplog)
    for record in content["annotations"]:
        record["id"] = f"number {record['id']}"
    renamed = CocoEvaluator(index_of(content), evaluator.category_of_label)
    for image_id, found in predictions.items():
        renamed.update(image_id, found)
    renamed.summarize()
    assert np.array_equal(renamed.precision, evaluator.precision)


def test_benchmark_runs():
    path = Path(__file__).parents[2] / "benchmarks" / "coco_evaluation.py"
    spec = importlib.util.spec_from_file_location("coco_evaluation", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    cells = [cell.strip() for cell in benchmark.row(4, 3, is_alone=False).split("|")[1:-1]]
    assert cells[:3] == ["4", "400", "3"] and 0.01 < float(cells[3]) < 0.9 and cells[-1] == "yes"
