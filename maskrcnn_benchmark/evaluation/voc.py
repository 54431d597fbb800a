"""Average precision as PASCAL VOC defines it (overlap 0.5, difficult objects neither right nor wrong), and as it is
used for Visual Genome, where the mean is also weighted by the number of objects.
"""

import json
import logging
import math
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from maskrcnn_benchmark.evaluation.base import Evaluator, scores_and_labels
from maskrcnn_benchmark.evaluation.coco import without_nan
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils.complete_files import write_complete

logger = logging.getLogger(__name__)

RIGHT, WRONG, IGNORED = 1, 0, -1
ELEVEN_POINTS = np.arange(0.0, 1.1, 0.1)  # some a rounding error high, as in the programs that published figures


class Outcomes(NamedTuple):
    """Detections of one class: scores (N,), and for each RIGHT, WRONG or IGNORED (N,)."""

    scores: np.ndarray
    outcomes: np.ndarray


class ImageOutcomes(NamedTuple):
    """One image: class -> its detections, and class -> number of objects that are not difficult."""

    found: Mapping[int, Outcomes]
    num_objects: Mapping[int, int]


def inclusive_overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union (N, M) of xyxy boxes (N, 4) and (M, 4), as VOC was measured historically.

    Boxes end on their last pixel, for which the historical code adds a pixel twice: to the box, and to its width.
    """
    last_pixel = np.array([0, 0, 1, 1])
    boxes, others = boxes + last_pixel, others + last_pixel
    upper = np.maximum(boxes[:, None, :2], others[:, :2])
    lower = np.minimum(boxes[:, None, 2:], others[:, 2:])
    intersection = (lower - upper + 1).clip(min=0).prod(-1)
    areas, other_areas = ((b[:, 2:] - b[:, :2] + 1).prod(-1) for b in (boxes, others))
    return intersection / (areas[:, None] + other_areas - intersection)


def judge(
    boxes: np.ndarray, scores: np.ndarray, truth: np.ndarray, is_difficult: np.ndarray, iou_threshold: float
) -> Outcomes:
    """What became of the detections of one class in one image, best score first.

    Each belongs to the object that it overlaps most, and is right if it is the first one there.
    Args: boxes (N, 4) and truth (G, 4) xyxy; scores (N,); is_difficult (G,).
    """
    order = np.argsort(-scores, kind="stable")
    outcomes = np.full(len(scores), WRONG)
    if len(truth) and len(boxes):
        overlaps = inclusive_overlaps(boxes[order], truth)
        nearest, is_near = overlaps.argmax(1), overlaps.max(1) >= iou_threshold
        first = np.zeros(len(order), dtype=bool)
        first[np.flatnonzero(is_near)[np.unique(nearest[is_near], return_index=True)[1]]] = True
        outcomes[first] = RIGHT
        outcomes[is_near & is_difficult[nearest]] = IGNORED
    return Outcomes(scores[order], outcomes)


def average_precision_11_point(precision: np.ndarray, recall: np.ndarray) -> float:
    """Mean of the best precision at recall 0, 0.1, ..., 1 or beyond (the metric of VOC 2007)."""
    return float(np.mean([precision[recall >= point].max(initial=0.0) for point in ELEVEN_POINTS]))


def average_precision_area(precision: np.ndarray, recall: np.ndarray) -> float:
    """Area under the precision made falling (the metric of VOC since 2010)."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * envelope).sum())


class VocEvaluator(Evaluator):
    """Average precision per class.

    Args:
        names: label -> name.
        iou_threshold: overlap that makes a box right.
        use_07_metric: the 11-point metric; else the area under the curve.
    Attributes:
        table: {figure: {class name: value}}, NaN without objects, after `summarize`; curves: class name -> (precision,
        recall) of the detections, best first.
    """

    def __init__(self, names: Mapping[int, str], iou_threshold: float = 0.5, use_07_metric: bool = True):
        super().__init__()
        self.names = dict(names)
        self.iou_threshold = iou_threshold
        self.average: Callable[[np.ndarray, np.ndarray], float] = (
            average_precision_11_point if use_07_metric else average_precision_area
        )
        self.table: dict[str, dict[str, float]] = {}
        self.curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def update(self, image_id: int | str, prediction: BoxList, ground_truth: BoxList) -> None:
        """Takes in one image, also when nothing was found in it.

        Args:
            prediction: with `scores` and `labels`; scaled to the size of the ground truth.
            ground_truth: with `labels`, and `difficult` where there are such objects.
        """
        prediction = prediction.resize(ground_truth.size).convert("xyxy")
        boxes, scores, labels = map(_array, (prediction.bbox, *scores_and_labels(prediction)))
        truth, truth_labels = _array(ground_truth.convert("xyxy").bbox), _array(ground_truth.get_field("labels"))
        is_difficult = np.zeros(len(truth), dtype=bool)
        if ground_truth.has_field("difficult"):
            is_difficult = _array(ground_truth.get_field("difficult")).astype(bool)
        found, num_objects = {}, {}
        for label in np.union1d(labels, truth_labels).astype(int).tolist():
            if label not in self.names:
                continue
            own, of_class = labels == label, truth_labels == label
            num_objects[label] = int((~is_difficult[of_class]).sum())
            found[label] = judge(boxes[own], scores[own], truth[of_class], is_difficult[of_class], self.iou_threshold)
        self._items.setdefault(image_id, ImageOutcomes(found, num_objects))

    def summarize(self) -> dict[str, float]:
        """mAP over the classes with objects, its mean weighted by objects, and the mean recall AR; -1 without any."""
        found: dict[int, list[Outcomes]] = defaultdict(list)
        num_objects: dict[int, int] = defaultdict(int)
        for image in self._items.values():
            for label, outcomes in image.found.items():
                found[label].append(outcomes)
                num_objects[label] += image.num_objects[label]
        self.table = {"AP": {}, "AR": {}, "objects": {}}
        for label, name in self.names.items():
            precision, recall = _curve(found[label], num_objects[label])
            self.curves[name] = (precision, recall)
            has_objects = num_objects[label] > 0
            self.table["AP"][name] = self.average(precision, recall) if has_objects else math.nan
            self.table["AR"][name] = float(recall.max(initial=0.0)) if has_objects else math.nan
            self.table["objects"][name] = float(num_objects[label])
        present = [name for name, count in self.table["objects"].items() if count]
        if not present:
            return {"mAP": -1.0, "weighted_mAP": -1.0, "AR": -1.0}
        precisions, recalls, weights = (
            np.array([self.table[row][name] for name in present]) for row in ("AP", "AR", "objects")
        )
        return {
            "mAP": float(precisions.mean()),
            "weighted_mAP": float(np.average(precisions, weights=weights)),
            "AR": float(recalls.mean()),
        }

    def write(
        self, folder: str | os.PathLike[str], metrics: Mapping[str, float], file_name: str = "result.txt"
    ) -> None:
        """Writes a line for the mean, and a line per class; files of other names have all figures first."""
        names = ("mAP",) if file_name == "result.txt" else tuple(metrics)
        lines = [f"{name}: {metrics[name]:.4f}" for name in names]
        lines += [f"{name:<16}: {ap:.4f}" for name, ap in self.table["AP"].items()]
        write_complete(Path(folder) / file_name, "".join(f"{line}\n" for line in lines))

    def write_json(self, folder: str | os.PathLike[str], metrics: Mapping[str, float]) -> None:
        """Writes metrics.json: all figures, and those of every class, null without objects."""
        write_complete(
            Path(folder) / "metrics.json", json.dumps({"bbox": dict(metrics), "per_class": without_nan(self.table)})
        )


def _curve(found: Sequence[Outcomes], num_objects: int) -> tuple[np.ndarray, np.ndarray]:
    """(precision, recall) after each detection that is not ignored, best score first."""
    if not found:
        return np.zeros(0), np.zeros(0)
    scores, outcomes = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(-scores, kind="stable")
    outcomes = outcomes[order][outcomes[order] != IGNORED]
    right = np.cumsum(outcomes == RIGHT)
    return right / np.arange(1, len(outcomes) + 1), right / max(num_objects, 1)


def _array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()


def eval_detection_voc(
    pred_boxlists: Sequence[BoxList],
    gt_boxlists: Sequence[BoxList],
    iou_thresh: float = 0.5,
    use_07_metric: bool = False,
) -> dict[str, np.ndarray | float]:
    """Average precision of every label; the interface is the historical one.

    Returns: {`ap`: (L,) for labels from 0 to the last of either list, NaN without objects; `map`: their mean}.
    Raises: ValueError for lists of different lengths.
    """
    if len(pred_boxlists) != len(gt_boxlists):
        raise ValueError(f"predictions for {len(pred_boxlists)} images, ground truth for {len(gt_boxlists)}")
    labels = [int(label) for truth in gt_boxlists for label in truth.get_field("labels")]
    labels += [int(label) for found in pred_boxlists for label in scores_and_labels(found)[1]]
    names = {label: str(label) for label in range(max(labels, default=0) + 1)}
    evaluator = VocEvaluator(names, iou_thresh, use_07_metric)
    for number, (prediction, truth) in enumerate(zip(pred_boxlists, gt_boxlists, strict=True)):
        evaluator.update(number, prediction, truth)
    metrics = evaluator.summarize()
    precisions = np.array(list(evaluator.table["AP"].values()))
    return {"ap": precisions, "map": math.nan if np.isnan(precisions).all() else metrics["mAP"]}
