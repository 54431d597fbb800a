"""COCO figures of a set small enough to know them."""

import csv
import json
import math

import pytest
import torch
from data_files import write_coco_toy

from maskrcnn_benchmark.data.datasets.coco import COCODataset
from maskrcnn_benchmark.evaluation import CocoEvaluator
from maskrcnn_benchmark.structures.bounding_box import BoxList


def prediction(box, label, score, size=(100, 80)) -> BoxList:
    boxes = BoxList([box] if box else [], size)
    boxes.add_field("labels", torch.tensor([label] * len(boxes)))
    boxes.add_field("scores", torch.tensor([score] * len(boxes)))
    return boxes


@pytest.fixture
def evaluator(tmp_path) -> CocoEvaluator:
    data = COCODataset(write_coco_toy(tmp_path), tmp_path, remove_images_without_annotations=False)
    return CocoEvaluator(data.coco, data.contiguous_category_id_to_json_id)


def fill(evaluator: CocoEvaluator) -> None:
    evaluator.update(2, prediction([10, 10, 39, 39], 1, 0.9))
    evaluator.update(5, prediction([40, 40, 119, 119], 2, 0.8, size=(200, 160)))  # network size, twice the file's
    evaluator.update(9, prediction(None, 1, 0.5))


def test_perfect_predictions(evaluator, tmp_path):
    fill(evaluator)
    assert evaluator.results()[0]["bbox"] == [10, 10, 30, 30]
    assert evaluator.results()[0]["category_id"] == 7
    metrics = evaluator.summarize()
    assert metrics["AP"] == pytest.approx(1.0) and metrics["AP50"] == pytest.approx(1.0) and metrics["APl"] == -1.0
    evaluator.write(tmp_path / "out", metrics)
    rows = list(csv.reader((tmp_path / "out" / "bbox.csv").open()))
    assert rows[0] == ["metric", "dog", "cat", "absent, thing", "avg"]
    assert [float(cell) for cell in rows[1][1:3]] == pytest.approx([1.0, 1.0])
    assert math.isnan(float(rows[1][3])) and float(rows[1][4]) == pytest.approx(1.0), "avg equals AP"
    stored = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert stored["bbox"]["AP"] == pytest.approx(1.0) and stored["per_class"]["AP"]["absent, thing"] is None
    assert len(json.loads((tmp_path / "out" / "bbox.json").read_text())) == 2


def test_boxes_get_their_width_with_the_last_pixel(evaluator):
    evaluator.update(5, prediction([20, 20, 59, 59], 2, 0.8))
    assert evaluator.results()[0]["bbox"] == [20, 20, 40, 40]


def test_wrong_label_is_wrong_and_unknown_labels_are_left_out(evaluator):
    evaluator.update(2, prediction([10, 10, 39, 39], 2, 0.9))
    assert evaluator.summarize()["AP"] == 0.0
    evaluator.reset()
    evaluator.update(2, prediction([10, 10, 39, 39], 44, 0.9))
    assert evaluator.results() == []


def test_no_prediction_at_all_is_zero(evaluator):
    for image_id in (2, 5, 9):
        evaluator.update(image_id, prediction(None, 1, 0.5))
    assert evaluator.summarize()["AP"] == 0.0


def test_only_images_that_were_seen_count(evaluator):
    evaluator.update(2, prediction([10, 10, 39, 39], 1, 0.9))
    assert evaluator.summarize()["AP"] == pytest.approx(1.0)


def test_chosen_categories(evaluator):
    chosen = CocoEvaluator(evaluator.ground_truth, evaluator.category_of_label, categories=[3])
    chosen.update(2, prediction(None, 1, 0.5))
    chosen.update(5, prediction([20, 20, 59, 59], 2, 0.8))
    assert chosen.summarize()["AP50"] == pytest.approx(1.0)
    assert list(chosen.table["AP"]) == ["dog"]


def test_gather_keeps_every_image_once(evaluator):
    fill(evaluator)
    assert evaluator.gather()
    assert len(evaluator.results()) == 2
