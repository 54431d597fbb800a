"""Average precision as COCO defines it and pycocotools computes it, with a table per category."""

import contextlib
import io
import json
import logging
import math
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn_benchmark.data.datasets.coco_json import sorted_ids
from maskrcnn_benchmark.evaluation.average_precision import NOTHING_TO_FIND, PrecisionRecall
from maskrcnn_benchmark.evaluation.base import Evaluator, scores_and_labels
from maskrcnn_benchmark.evaluation.coco_curves import coco_curves, read_truth
from maskrcnn_benchmark.evaluation.detection_columns import Columns
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils.complete_files import atomic_path, write_complete

logger = logging.getLogger(__name__)

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
KEYPOINT_METRICS = ("AP", "AP50", "AP75", "APm", "APl")  # keypoints are not asked of small people
RECALLS = ("AR@1", "AR@10", "AR@100", "ARs@100", "ARm@100", "ARl@100")
TABLE_ROWS = {  # name -> (overlap, area) as the historical table writes them
    "AP": ("0.50:0.95", "all"),
    "AP50": ("0.50", "all"),
    "APs": ("0.50:0.95", "small"),
    "APm": ("0.50:0.95", "medium"),
    "APl": ("0.50:0.95", "large"),
}
AREAS = {"all": 0, "small": 1, "medium": 2, "large": 3}  # index of the area range, as in COCOeval
MAX_DETECTIONS = 2  # index of 100 detections per image, as in COCOeval
PROPOSAL_LIMITS = (100, 1000)  # boxes per image
PROPOSAL_METRICS = tuple(f"AR{area}@{limit}" for limit in PROPOSAL_LIMITS for area in ("", "s", "m", "l"))
METRICS_OF = {"bbox": METRICS, "segm": METRICS, "keypoints": KEYPOINT_METRICS, "box_proposal": PROPOSAL_METRICS}


class COCOResults:
    """Figures by kind of result (those of METRICS_OF) and name; -1 where there is nothing to measure.

    Raises: ValueError for another kind of result.
    """

    def __init__(self, *iou_types: str):
        if unknown := [iou_type for iou_type in iou_types if iou_type not in METRICS_OF]:
            raise ValueError(f"kind of result {unknown[0]!r}: known are {', '.join(METRICS_OF)}")
        self.results: OrderedDict[str, OrderedDict[str, float]] = OrderedDict(
            (iou_type, OrderedDict.fromkeys(METRICS_OF[iou_type], NOTHING_TO_FIND)) for iou_type in iou_types
        )

    def __repr__(self) -> str:
        return repr(self.results)


class ImageDetections(NamedTuple):
    """Boxes (N, 4) x, y, width, height in pixels of the file, scores (N,), and labels (N,) of one image."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class CocoEvaluator(Evaluator):
    """COCO figures of boxes.

    Args:
        ground_truth: COCO index; only images that were given to `update` are evaluated.
        category_of_label: label of a prediction -> category id of the file, which several may share; other labels are
            left out.
        categories: ids of the categories to average over; None for all that labels stand for.
    Attributes:
        table: {figure: {category name: value}}, NaN without ground truth; recalls: average recall by name;
        precision: (T, 101, K, 4, 3) over overlaps, recalls, categories, areas, limits. All after `summarize`.
    Raises: ValueError when category ids are of several types.
    """

    def __init__(
        self, ground_truth: COCO, category_of_label: Mapping[int, Any], categories: Sequence[Any] | None = None
    ):
        super().__init__()
        self.ground_truth = ground_truth
        self.category_of_label = dict(category_of_label)
        chosen = self.category_of_label.values() if categories is None else categories
        self.categories = sorted_ids("category", dict.fromkeys(chosen))
        self.table: dict[str, dict[str, float]] = {}
        self.recalls: dict[str, float] = {}
        self.precision = np.zeros((0, 0, 0, 0, 0))
        _complete(ground_truth)

    def names(self) -> list[str]:
        """Names of the categories, with the id where two share a name."""
        listed = {record["id"]: record["name"] for record in self.ground_truth.dataset.get("categories", [])}
        names = [str(listed.get(category, category)) for category in self.categories]
        return [
            f"{name} ({category})" if names.count(name) > 1 else name
            for name, category in zip(names, self.categories, strict=True)
        ]

    def update(self, image_id: int | str, prediction: BoxList) -> None:
        """Takes in the boxes of one image, with `scores` and `labels`; they are scaled to its size in the file.

        Raises: ValueError for an image that the file does not have.
        """
        if image_id not in self.ground_truth.imgs:
            raise ValueError(
                f"prediction for image {image_id!r}, which is not among the {len(self.ground_truth.imgs)} images of "
                "the annotations"
            )
        image = self.ground_truth.imgs[image_id]
        boxes = prediction.resize((image["width"], image["height"])).convert("xywh").bbox
        columns = (boxes, *scores_and_labels(prediction))
        found = ImageDetections(*(column.detach().cpu().numpy() for column in columns))
        is_known = np.isin(found.labels, list(self.category_of_label))
        self._items.setdefault(image_id, ImageDetections(*(column[is_known] for column in found)))

    def image_ids(self) -> list[Any]:
        """The images that were given, ascending."""
        return sorted(self._items)

    def results(self) -> list[dict[str, Any]]:
        """The collected predictions as a COCO result list, boxes as x, y, width, height."""
        return [row for image_id in self.image_ids() for row in self._results_of(image_id)]

    def _results_of(self, image_id: Any) -> list[dict[str, Any]]:
        return [
            {"image_id": image_id, "category_id": self.category_of_label[label], "bbox": box, "score": score}
            for box, score, label in zip(*(column.tolist() for column in self._items[image_id]), strict=True)
        ]

    def summarize(self) -> dict[str, float]:
        """AP, AP50, AP75, APs, APm, APl in 0..1, -1 where there is no ground truth; fills `table` and `recalls`."""
        if not self._items or not self.categories:  # pycocotools would take that for "all"
            shape = (10, 101, len(self.categories), len(AREAS), MAX_DETECTIONS + 1)
            return self._keep(np.full(shape, NOTHING_TO_FIND), [NOTHING_TO_FIND] * len((*METRICS, *RECALLS)))
        truth = read_truth(self.ground_truth, self.image_ids(), self.categories)
        columns = self._columns()
        evaluation = COCOeval(iouType="bbox")  # for its summary
        if all(np.isfinite(values).all() for values in (columns.boxes, truth.boxes)):
            precision, recall = coco_curves(truth, columns, len(self.categories))
        else:
            precision, recall = self._curves_of_pycocotools()
        evaluation.eval = {"precision": precision, "recall": recall}
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            evaluation.summarize()
        logger.info("%s", printed.getvalue())
        return self._keep(precision, evaluation.stats.tolist())

    def _columns(self) -> Columns:
        """The collected predictions of `categories`, by image."""
        items = [self._items[image_id] for image_id in self.image_ids()]
        boxes, scores, labels = (np.concatenate(parts) for parts in zip(*items, strict=True))
        images = np.repeat(np.arange(len(items)), [len(item.scores) for item in items])
        number = {category: number for number, category in enumerate(self.categories)}
        known, position = np.unique(labels, return_inverse=True)
        numbers = np.array([number.get(self.category_of_label[label], -1) for label in known.tolist()], dtype=np.int64)
        categories = numbers[position]
        return Columns(images, categories, boxes.astype(np.float64), scores.astype(np.float64)).take(categories >= 0)

    def _curves_of_pycocotools(self) -> PrecisionRecall:
        """For boxes that are not finite, whose overlaps depend on the order in which they are looked at."""
        with contextlib.redirect_stdout(io.StringIO()):
            results = self.results()
            detections = self.ground_truth.loadRes(results) if results else COCO()
            evaluation = COCOeval(self.ground_truth, detections, "bbox")
            evaluation.params.imgIds = self.image_ids()
            evaluation.params.catIds = self.categories
            evaluation.evaluate()
            evaluation.accumulate()
        return PrecisionRecall(evaluation.eval["precision"], evaluation.eval["recall"])

    def _keep(self, precision: np.ndarray, stats: Sequence[float]) -> dict[str, float]:
        self.precision = precision
        self.table = self._tabulate()
        self.recalls = dict(zip(RECALLS, stats[6:], strict=True))
        return dict(zip(METRICS, stats[:6], strict=True))

    def mean_precision(self) -> np.ndarray:
        """(T, 101, K) precision over overlaps, recalls and categories, for all areas and 100 detections per image."""
        return self.precision[..., AREAS["all"], MAX_DETECTIONS]

    def _tabulate(self) -> dict[str, dict[str, float]]:
        """For each row of the table the value per category name; NaN without ground truth."""
        names = self.names()
        table = {}
        for row, (overlap, area) in TABLE_ROWS.items():
            thresholds = slice(0, 1) if overlap == "0.50" else slice(None)
            values = self.precision[thresholds, :, :, AREAS[area], MAX_DETECTIONS]
            per_category = [_mean_of_valid(values[:, :, number]) for number in range(len(names))]
            table[row] = dict(zip(names, per_category, strict=True))
        return table

    def write(self, folder: str | os.PathLike[str], metrics: Mapping[str, float]) -> None:
        """Writes bbox.json (the predictions), bbox.csv (the table per category), metrics.json and coco_results.pth."""
        folder = Path(folder)
        results = COCOResults("bbox")
        results.results["bbox"].update(metrics)
        figures = {"bbox": {**metrics, **self.recalls}, "per_class": without_nan(self.table)}
        images = map(self._results_of, self.image_ids())  # one by one: a list of all keeps the garbage collector busy
        write_complete(folder / "bbox.json", f"[{', '.join(json.dumps(rows)[1:-1] for rows in images if rows)}]")
        write_complete(folder / "metrics.json", json.dumps(figures, indent=1))
        write_complete(folder / "bbox.csv", table_csv(self.table))
        with atomic_path(folder / "coco_results.pth") as part:
            torch.save(results, part)


def table_csv(table: Mapping[str, Mapping[str, float]]) -> str:
    """The table per category, with the titles of the historical one: a row per figure, its mean over the categories
    with ground truth at the end, "nan" where there is none.

    A blank follows every comma, as it did historically, but where a name is quoted for its comma or quote: readers of
    CSV take quotes for such only at the very beginning.
    """
    lines = [["metric", *map(_quoted, next(iter(table.values()), {})), "avg "]]
    for row, values in table.items():
        overlap, area = TABLE_ROWS[row]
        title = f" {'Average Precision':<18} (AP) @[ IoU={overlap:<9} | area={area:>6s} | maxDets={100:>3d} ]"
        lines.append([title, *(f"{value:.6f}" for value in values.values()), f"{_nan_mean(values.values()):.6f}"])
    return "".join(f"{_comma_separated(line)}\n" for line in lines)


def _comma_separated(cells: Sequence[str]) -> str:
    return cells[0] + "".join(f",{cell}" if cell.startswith('"') else f", {cell}" for cell in cells[1:])


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text


def _complete(ground_truth: COCO) -> None:
    """Gives annotations what pycocotools asks for: `iscrowd` (not a crowd) and `area` (of the box).

    Warns of an annotation with id 0: pycocotools takes 0 for "found nothing".
    """
    if 0 in ground_truth.anns:
        logger.warning("an annotation has the id 0: pycocotools counts its detection as wrong; number them from 1")
    for annotation in ground_truth.dataset.get("annotations", []):
        if annotation.get("iscrowd") is None:
            annotation["iscrowd"] = 0
        if annotation.get("area") is None:
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]


def _mean_of_valid(values: np.ndarray) -> float:
    valid = values[values > NOTHING_TO_FIND]
    return float(valid.mean()) if valid.size else math.nan


def _nan_mean(values: Iterable[float]) -> float:
    valid = [value for value in values if not math.isnan(value)]
    return sum(valid) / len(valid) if valid else math.nan


def without_nan(table: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """JSON has no NaN."""
    return {
        row: {name: None if math.isnan(value) else value for name, value in values.items()}
        for row, values in table.items()
    }
