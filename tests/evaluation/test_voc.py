"""VOC figures of sets small enough to work them out by hand."""

import math

import numpy as np
import pytest
import torch

from maskrcnn_benchmark.evaluation.voc import (
    VocEvaluator,
    average_precision_11_point,
    average_precision_area,
    eval_detection_voc,
    inclusive_overlaps,
)
from maskrcnn_benchmark.structures.bounding_box import BoxList

NAMES = {1: "aeroplane", 2: "bicycle", 3: "bird"}
SIZE = (100, 100)


def boxlist(rows, **fields) -> BoxList:
    boxes = BoxList([row[:4] for row in rows], SIZE)
    for number, (field, kind) in enumerate(fields.items(), start=4):
        boxes.add_field(field, torch.tensor([row[number] for row in rows], dtype=kind))
    return boxes


def truth(*rows) -> BoxList:
    return boxlist(rows, labels=torch.int64, difficult=torch.bool)


def found(*rows) -> BoxList:
    return boxlist(rows, scores=torch.float32, labels=torch.int64)


A, B, C, D = [0, 0, 19, 19], [40, 40, 59, 59], [60, 0, 79, 19], [0, 60, 19, 79]
GROUND_TRUTH = [truth([*A, 1, 0], [*B, 1, 0], [*C, 2, 0], [*D, 1, 1]), truth([*A, 1, 0], [*B, 1, 0])]
# Class 1, by score: right; the same object again, wrong; the difficult one, ignored; right; elsewhere, wrong.
# So precision 1, 1/2, 2/3, 1/2 at recall 1/4, 1/4, 2/4, 2/4.
PREDICTIONS = [
    found([*A, 0.9, 1], [*A, 0.8, 1], [*D, 0.7, 1], [*B, 0.6, 1], [*A, 0.9, 3]),
    found([60, 60, 79, 79, 0.5, 1]),
]
ELEVEN_POINT, AREA = (3 * 1 + 3 * 2 / 3) / 11, 0.25 * 1 + 0.25 * 2 / 3


def evaluated(**options) -> tuple[VocEvaluator, dict[str, float]]:
    evaluator = VocEvaluator(NAMES, **options)
    for number, (prediction, ground_truth) in enumerate(zip(PREDICTIONS, GROUND_TRUTH, strict=True)):
        evaluator.update(number, prediction.resize((200, 200)), ground_truth)
    evaluator.update(0, found(), GROUND_TRUTH[0])  # again
    assert evaluator.gather()
    return evaluator, evaluator.summarize()


@pytest.mark.parametrize(("use_07_metric", "expected"), [(True, ELEVEN_POINT), (False, AREA)])
def test_figures(use_07_metric, expected):
    evaluator, metrics = evaluated(use_07_metric=use_07_metric)
    assert evaluator.table["AP"]["aeroplane"] == pytest.approx(expected)
    assert evaluator.table["AP"]["bicycle"] == 0.0 and math.isnan(evaluator.table["AP"]["bird"])
    assert metrics["mAP"] == pytest.approx(expected / 2), "a class that nothing was found of counts"
    assert metrics["weighted_mAP"] == pytest.approx(expected * 4 / 5)
    assert metrics["AR"] == pytest.approx(0.25)
    precision, recall = evaluator.curves["aeroplane"]
    assert precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2]) and recall.tolist() == [0.25, 0.25, 0.5, 0.5]


def test_image_without_predictions_counts():
    with_both = eval_detection_voc([found([*A, 0.9, 1]), BoxList([], SIZE)], [truth([*A, 1, 0])] * 2)
    assert with_both["map"] == pytest.approx(0.5) and math.isnan(with_both["ap"][0])
    assert eval_detection_voc([found([*A, 0.9, 1])], [truth([*A, 1, 0])], use_07_metric=True)["map"] == pytest.approx(1)
    assert math.isnan(eval_detection_voc([], [])["map"])
    foreign = eval_detection_voc([found([*A, 0.9, 1], [*B, 0.8, 4])], [truth([*A, 1, 0])])
    assert foreign["map"] == 1.0 and len(foreign["ap"]) == 5, "a class without objects is not wrong, and has a place"
    assert math.isnan(eval_detection_voc([found([*A, 0.9, 1])], [truth()])["map"])


def test_averages():
    precision, recall = np.array([1.0, 0.5, 2 / 3]), np.array([0.5, 0.5, 1.0])
    assert average_precision_11_point(precision, recall) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert average_precision_area(precision, recall) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert average_precision_area(np.zeros(0), np.zeros(0)) == average_precision_11_point(np.zeros(0), np.zeros(0)) == 0


def test_overlaps_count_the_last_pixel_twice():
    overlap = inclusive_overlaps(np.array([[0.0, 0, 9, 9]]), np.array([[5.0, 0, 14, 9], [50, 50, 60, 60]]))
    assert overlap.tolist() == [[pytest.approx(6 * 11 / (2 * 121 - 66)), 0.0]]


def test_result_file(tmp_path):
    evaluator, metrics = evaluated()
    evaluator.write(tmp_path, metrics)
    assert (tmp_path / "result.txt").read_text() == (
        f"mAP: {ELEVEN_POINT / 2:.4f}\naeroplane       : {ELEVEN_POINT:.4f}\nbicycle         : 0.0000\n"
        "bird            : nan\n"
    )


def test_nothing_at_all():
    assert VocEvaluator(NAMES).summarize() == {"mAP": -1.0, "weighted_mAP": -1.0, "AR": -1.0}
    with pytest.raises(ValueError, match="predictions for 1 images, ground truth for 0"):
        eval_detection_voc([found()], [])
