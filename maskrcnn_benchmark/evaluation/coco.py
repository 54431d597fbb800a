"""Average precision as COCO defines it, by pycocotools, with a table per category."""

import contextlib
import csv
import io
import json
import logging
import math
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn_benchmark.evaluation.base import Evaluator
from maskrcnn_benchmark.structures.bounding_box import BoxList

logger = logging.getLogger(__name__)

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
TABLE_ROWS = ("AP", "AP50", "APs", "APm", "APl")
AREAS = {"AP": 0, "AP50": 0, "AP75": 0, "APs": 1, "APm": 2, "APl": 3}  # index of the area range in COCOeval
MAX_DETECTIONS = 2  # index of 100 detections per image in COCOeval


class COCOResults:
    """Figures by kind of result ("bbox") and name; -1 where there is nothing to measure."""

    def __init__(self, *iou_types: str):
        self.results: OrderedDict[str, OrderedDict[str, float]] = OrderedDict(
            (iou_type, OrderedDict((metric, -1.0) for metric in METRICS)) for iou_type in iou_types
        )

    def __repr__(self) -> str:
        return repr(self.results)


class CocoEvaluator(Evaluator):
    """COCO figures of boxes.

    Args:
        ground_truth: COCO index; only images that were given to `update` are evaluated.
        category_of_label: label of a prediction -> category id of the file; other labels are left out.
        categories: ids of the categories to average over; None for all that labels stand for.
    """

    def __init__(
        self, ground_truth: COCO, category_of_label: Mapping[int, int], categories: Sequence[int] | None = None
    ):
        super().__init__()
        self.ground_truth = ground_truth
        self.category_of_label = dict(category_of_label)
        self.categories = sorted(self.category_of_label.values() if categories is None else categories)
        self.table: dict[str, dict[str, float]] = {}

    def update(self, image_id: int | str, prediction: BoxList) -> None:
        """Takes in the boxes of one image, with `scores` and `labels`; they are scaled to its size in the file."""
        image = self.ground_truth.imgs[image_id]
        boxes = prediction.resize((image["width"], image["height"])).convert("xywh").bbox.tolist()
        scores, labels = prediction.get_field("scores").tolist(), prediction.get_field("labels").tolist()
        self._items[image_id] = [
            {"image_id": image_id, "category_id": self.category_of_label[label], "bbox": box, "score": score}
            for box, score, label in zip(boxes, scores, labels, strict=True)
            if label in self.category_of_label
        ]

    def results(self) -> list[dict[str, Any]]:
        """The collected predictions as a COCO result list, boxes as x, y, width, height."""
        return [result for image_id in sorted(self._items) for result in self._items[image_id]]

    def summarize(self) -> dict[str, float]:
        """AP, AP50, AP75, APs, APm, APl in 0..1, -1 where there is no ground truth; fills `table`."""
        results = self.results()
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            detections = self.ground_truth.loadRes(results) if results else COCO()
            evaluation = COCOeval(self.ground_truth, detections, "bbox")
            evaluation.params.imgIds = sorted(self._items)
            evaluation.params.catIds = self.categories
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        logger.info("%s", printed.getvalue())
        precision = evaluation.eval["precision"]  # (IoU thresholds, recalls, categories, areas, detection limits)
        self.table = self._tabulate(precision)
        return dict(zip(METRICS, (float(value) for value in evaluation.stats[:6]), strict=True))

    def _tabulate(self, precision: np.ndarray) -> dict[str, dict[str, float]]:
        """For each row of the table the value per category name; NaN without ground truth."""
        names = [self.ground_truth.cats[category]["name"] for category in self.categories]
        table = {}
        for row in TABLE_ROWS:
            thresholds = slice(0, 1) if row == "AP50" else slice(None)
            values = precision[thresholds, :, :, AREAS[row], MAX_DETECTIONS]
            per_category = [_mean_of_valid(values[:, :, number]) for number in range(len(names))]
            table[row] = dict(zip(names, per_category, strict=True))
        return table

    def write(self, folder: str | os.PathLike[str], metrics: Mapping[str, float]) -> None:
        """Writes bbox.json (the predictions), bbox.csv (the table per category) and metrics.json."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "bbox.json").write_text(json.dumps(self.results()))
        (folder / "metrics.json").write_text(json.dumps({"bbox": dict(metrics), "per_class": _without_nan(self.table)}))
        with (folder / "bbox.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["metric", *next(iter(self.table.values()), {}), "avg"])
            for row, values in self.table.items():
                writer.writerow([row, *(f"{value:.6f}" for value in values.values()), f"{_nan_mean(values):.6f}"])


def _mean_of_valid(values: np.ndarray) -> float:
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else math.nan


def _nan_mean(values: Mapping[str, float]) -> float:
    valid = [value for value in values.values() if not math.isnan(value)]
    return sum(valid) / len(valid) if valid else math.nan


def _without_nan(table: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """JSON has no NaN."""
    return {
        row: {name: None if math.isnan(value) else value for name, value in values.items()}
        for row, values in table.items()
    }
