"""Average precision on LVIS: the standard one, and fixed AP, which does not limit the boxes of an image.

A class is judged in the images where it was looked for: those that show it and those it was verified absent from
(federated annotation, arXiv:1908.03195). Fixed AP (arXiv:2102.01066) keeps the best 10,000 detections of each class in
the whole dataset; the standard one keeps the best 300 of each image.
"""

import json
import logging
import os
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_benchmark.evaluation.average_precision import (
    AREA_RANGES,
    IOU_THRESHOLDS,
    PrecisionRecall,
    is_outside,
    mean_of_valid,
    precision_recall,
)
from maskrcnn_benchmark.evaluation.base import Evaluator, scores_and_labels
from maskrcnn_benchmark.evaluation.detection_columns import Columns, best_of_group
from maskrcnn_benchmark.evaluation.greedy_matching import match_greedily
from maskrcnn_benchmark.evaluation.lvis_annotations import FREQUENCIES, LVIS, FederatedTruth
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.complete_files import write_complete

logger = logging.getLogger(__name__)

MAX_PER_IMAGE, MAX_PER_CLASS, UNLIMITED = 300, 10_000, -1
PRUNE_AT = 8_000_000  # collected detections


class LvisEvaluator(Evaluator):
    """LVIS figures of boxes.

    Args:
        ground_truth: the annotations.
        is_fixed: fixed AP; False for the standard one.
        max_per_class: detections per class that fixed AP keeps.
        max_per_image: detections per image that the standard AP keeps.
        only_seen: judge only the images that were given, instead of all of the file.
    Attributes:
        curves, table: precision over recall, and {figure: {class name: value}}, both after `summarize`.
    """

    def __init__(
        self,
        ground_truth: LVIS,
        is_fixed: bool = True,
        max_per_class: int = MAX_PER_CLASS,
        max_per_image: int = MAX_PER_IMAGE,
        only_seen: bool = False,
    ):
        super().__init__()
        self.ground_truth = ground_truth
        self.is_fixed = is_fixed
        self.max_per_class = max_per_class
        self.max_per_image = max_per_image
        self.only_seen = only_seen
        self.curves: PrecisionRecall | None = None
        self.table: dict[str, dict[str, float]] = {}
        truth = ground_truth.truth
        self._image_number = {image_id: number for number, image_id in enumerate(truth.image_ids)}
        if not all(isinstance(category, int) for category in truth.category_ids):
            raise ValueError(f"{ground_truth.source}: category ids must be whole numbers, as labels of boxes are")
        self._category_ids = np.array(truth.category_ids, dtype=np.int64)
        self.reset()

    def reset(self) -> None:
        """Forgets everything collected."""
        self._seen: set[Hashable] = set()
        self._parts: list[Columns] = []
        self._size = 0

    def update(self, image_id: int | str, prediction: BoxList) -> None:
        """Takes in the boxes of one image, with `scores` and as `labels` category ids; unknown labels are left out.

        The boxes are scaled to the size of the image in the file. An image that comes again is ignored.
        """
        record = self.ground_truth.imgs[self._known(image_id)]
        boxes = prediction.resize((record["width"], record["height"])).convert("xyxy").bbox
        columns = (boxes, *scores_and_labels(prediction))
        self.update_arrays(image_id, *(column.detach().cpu().numpy() for column in columns))

    def update_arrays(self, image_id: int | str, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
        """Takes in boxes (N, 4) xyxy in pixels of the file, scores (N,), and category ids (N,) of one image."""
        xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        self.update_columns(np.full(len(scores), self._known(image_id)), labels, xywh, scores)
        self._seen.add(image_id)

    def update_columns(
        self,
        image_ids: np.ndarray,
        category_ids: np.ndarray,
        boxes: np.ndarray,
        scores: np.ndarray,
        *,
        adds_to_images: bool = False,
    ) -> None:
        """Takes in the detections of several images: ids (N,), x, y, width, height (N, 4), scores (N,).

        Images that came in an earlier call are ignored, or with `adds_to_images` get further detections.
        Raises: ValueError for an image that the file does not have, or columns of different lengths.
        """
        lengths = {len(column) for column in (image_ids, category_ids, boxes, scores)}
        if len(lengths) > 1:
            raise ValueError(f"columns of detections have different lengths: {sorted(lengths)}")
        ids, position = np.unique(np.asarray(image_ids), return_inverse=True)
        numbers = np.array([self._image_number[self._known(image_id)] for image_id in ids.tolist()], dtype=np.int32)
        is_new = np.array([adds_to_images or image_id not in self._seen for image_id in ids.tolist()], dtype=bool)
        self._seen.update(ids.tolist())
        categories = np.searchsorted(self._category_ids, category_ids).clip(max=max(0, len(self._category_ids) - 1))
        keep = np.zeros(len(categories), dtype=bool)
        if len(self._category_ids):
            keep = (self._category_ids[categories] == category_ids) & is_new[position]
        part = Columns(numbers[position], categories.astype(np.int32), np.asarray(boxes).reshape(-1, 4), scores)
        part = part.take(keep)
        self._parts.append(part if self.is_fixed else best_per_image(part, self.max_per_image))
        self._size += len(self._parts[-1].scores)
        if self.is_fixed and self._size > PRUNE_AT and len(self._parts) > 1:
            self._parts = [self._limited()]
            self._size = 0  # the next pruning after as many new ones

    def update_results(self, results: Iterable[Mapping[str, Any]]) -> None:
        """Takes in detections in COCO's result format: `image_id`, `category_id`, `bbox` xywh, `score`."""
        rows = list(results)
        self.update_columns(
            np.array([row["image_id"] for row in rows]),
            np.array([row["category_id"] for row in rows], dtype=np.int64),
            np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4),
            np.array([row["score"] for row in rows], dtype=np.float64),
        )

    def _known(self, image_id: Any) -> Any:
        if image_id not in self._image_number:
            raise ValueError(
                f"prediction for image {image_id!r}, which is not among the {len(self._image_number)} images of "
                f"{self.ground_truth.source}"
            )
        return image_id

    def _limited(self) -> Columns:
        """What has been collected within the limits, in the order it came in; of equal scores the first to come."""
        columns = Columns.join(self._parts)
        if self.is_fixed:
            return best_per_class(columns, self.max_per_class)
        return best_per_image(columns, self.max_per_image)

    def _kept(self) -> Columns:
        """What has been collected within the limits, by image, then in the order it came in."""
        columns = self._limited()
        return columns.take(np.argsort(columns.images, kind="stable"))

    def gather(self) -> bool:
        """Joins what all processes collected; returns whether this process has it all and may summarize."""
        gathered = comm.all_gather((self._limited(), self._seen))
        self.reset()
        for columns, seen in gathered:
            known = np.array([self._image_number[image_id] for image_id in self._seen & seen], dtype=np.int64)
            self._parts.append(columns.take(~np.isin(columns.images, known)))
            self._seen |= seen
        return comm.is_main_process()

    def results(self) -> list[dict[str, Any]]:
        """The kept detections as a COCO result list, boxes as x, y, width, height."""
        truth = self.ground_truth.truth
        return [
            {
                "image_id": truth.image_ids[image],
                "category_id": truth.category_ids[category],
                "bbox": box,
                "score": score,
            }
            for image, category, box, score in zip(*(column.tolist() for column in self._kept()), strict=True)
        ]

    def summarize(self) -> dict[str, float]:
        """AP, AP50, AP75, APs, APm, APl, APr, APc, APf, AR@k, ARs@k, ARm@k, ARl@k in 0..1; -1 without ground truth.

        k is the limit per image, -1 for fixed AP, which has none.
        """
        columns = self._kept()
        if self.is_fixed:
            logger.info(
                "%d of %d classes have less than %d detections",
                int((np.bincount(columns.categories, minlength=len(self._category_ids)) < self.max_per_class).sum()),
                len(self._category_ids),
                self.max_per_class,
            )
        judged = None
        if self.only_seen:
            judged = np.array(sorted(self._image_number[image_id] for image_id in self._seen), dtype=np.int64)
        self.curves = federated_curves(self.ground_truth.truth, columns, judged)
        names = [self.ground_truth.cats[category].get("name", str(category)) for category in self._category_ids]
        self.table = _table(self.curves, names)
        return figures(self.curves, self.ground_truth.truth, UNLIMITED if self.is_fixed else self.max_per_image)

    def mean_precision(self) -> np.ndarray:
        """(T, 101, K) precision over overlaps, recalls and classes, for all areas, after `summarize`."""
        assert self.curves is not None
        return self.curves.precision[..., 0]

    def write(self, folder: str | os.PathLike[str], metrics: Mapping[str, float]) -> None:
        """Writes bbox.csv (the lines of `text_lines`) and metrics.json (full figures, and AP per class)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_complete(folder / "bbox.csv", csv_of_lines(text_lines(metrics)))
        per_class = {
            figure: {name: None if value < 0 else value for name, value in row.items()}
            for figure, row in self.table.items()
        }
        write_complete(folder / "metrics.json", json.dumps({"bbox": dict(metrics), "per_class": per_class}))


def best_per_class(columns: Columns, limit: int) -> Columns:
    """The best detections of each class, in the order of the columns; of equal scores the earlier ones."""
    is_crowded = np.bincount(columns.categories) > limit
    if not is_crowded.any():
        return columns
    keep = ~is_crowded[columns.categories]
    rows = np.flatnonzero(~keep)
    keep[rows[best_of_group(columns.categories[rows], columns.scores[rows], limit)]] = True
    return columns.take(keep)


def best_per_image(columns: Columns, limit: int) -> Columns:
    """The best detections of each image, in the order of the columns; of equal scores the earlier ones."""
    return columns.take(np.sort(best_of_group(columns.images, columns.scores, limit)))


def federated_curves(truth: FederatedTruth, columns: Columns, judged: np.ndarray | None = None) -> PrecisionRecall:
    """Precision over recall of detections, in the images where their class was looked for.

    `judged` are the positions of the images that count, ascending; None for all.
    """
    num_categories = len(truth.category_ids)
    in_order = np.lexsort((truth.categories, truth.images))
    if judged is not None:
        in_order = in_order[np.isin(truth.images[in_order], judged)]
    truth_keys = truth.images[in_order] * num_categories + truth.categories[in_order]
    truth_ignored = truth.is_ignored[in_order, None] | is_outside(truth.areas[in_order])
    keys = columns.images.astype(np.int64) * num_categories + columns.categories
    is_judged = np.isin(keys, np.union1d(truth_keys, truth.negatives))
    if judged is not None:
        is_judged &= np.isin(columns.images, judged)
    columns, keys = columns.take(is_judged), keys[is_judged]
    by_image = np.lexsort((-columns.scores, keys))
    columns, keys = columns.take(by_image), keys[by_image]
    boxes = columns.boxes.astype(np.float64)
    matches = match_greedily(keys, boxes, truth_keys, truth.boxes[in_order], truth_ignored, IOU_THRESHOLDS)
    is_ignored = is_outside(boxes[:, 2] * boxes[:, 3]) | np.isin(keys, truth.incomplete)[:, None]
    num_truths = np.zeros((num_categories, len(AREA_RANGES)), dtype=np.int64)
    np.add.at(num_truths, truth.categories[in_order], ~truth_ignored)
    return precision_recall(columns.categories, columns.scores, matches, is_ignored, num_truths)


def figures(curves: PrecisionRecall, truth: FederatedTruth, max_per_image: int) -> dict[str, float]:
    """The figures of `LvisEvaluator.summarize`."""
    precision, recall = curves
    areas = list(AREA_RANGES)
    result = {
        "AP": mean_of_valid(precision[..., 0]),
        "AP50": mean_of_valid(precision[0, ..., 0]),
        "AP75": mean_of_valid(precision[5, ..., 0]),
    }
    result |= {f"AP{areas[number]}": mean_of_valid(precision[..., number]) for number in (1, 2, 3)}
    result |= {f"AP{letter}": mean_of_valid(precision[:, :, truth.frequencies == letter, 0]) for letter in FREQUENCIES}
    for number, name in enumerate(("", "s", "m", "l")):
        result[f"AR{name}@{max_per_image}"] = mean_of_valid(recall[..., number])
    return result


def _table(curves: PrecisionRecall, names: list[str]) -> dict[str, dict[str, float]]:
    def of_class(values: np.ndarray) -> dict[str, float]:  # (..., K) -> name -> mean
        return {name: mean_of_valid(values[..., number]) for number, name in enumerate(names)}

    return {"AP": of_class(curves.precision[..., 0]), "AP50": of_class(curves.precision[0, ..., 0])}


def text_lines(metrics: Mapping[str, float]) -> list[str]:
    """One line of text for every figure, in the form that LVIS tools print."""
    limit = next(int(name.split("@")[1]) for name in metrics if "@" in name)
    lines = []
    for name, value in metrics.items():
        title, kind = ("Average Precision", "(AP)") if name.startswith("AP") else ("Average Recall", "(AR)")
        which = name[2:].split("@")[0]
        overlap = f"{int(which) / 100:0.2f}" if which.isdigit() else "0.50:0.95"
        area = which if which in ("s", "m", "l") else "all"
        group = which if which in FREQUENCIES else "all"
        lines.append(
            f" {title:<18} {kind} @[ IoU={overlap:<9} | area={area:>6s} | maxDets={limit:>3d} catIds={group:>3s}] = "
            f"{value:0.3f}"
        )
    return lines


def csv_of_lines(lines: Iterable[str]) -> str:
    """A table of two columns, the second of them the number behind the equals sign."""
    return "".join(
        ["metric, avg \n", *(f"{' '.join(line.split(' ')[:-2])}, {line.split(' ')[-1]}\n" for line in lines)]
    )
