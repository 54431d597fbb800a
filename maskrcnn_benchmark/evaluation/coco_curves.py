"""Precision and recall on COCO for all images and categories side by side, equal to pycocotools' to the last bit.

Its rules: a detection chooses among the ground truth of its image and category, the best score first; things outside
the area range and crowds are ignored, and so are unmatched detections outside the range. Overlaps with a crowd are
those with the part of it under the detection. An annotation with the id 0 is never found: its detections count as
unmatched.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO

from maskrcnn_benchmark.evaluation.average_precision import (
    AREA_RANGES,
    IOU_THRESHOLDS,
    PrecisionRecall,
    is_outside,
    precision_recall,
)
from maskrcnn_benchmark.evaluation.detection_columns import Columns, best_of_group
from maskrcnn_benchmark.evaluation.greedy_matching import match_greedily, position_in_group

MAX_DETECTIONS = (1, 10, 100)  # per image and category


class CocoTruth(NamedTuple):
    """Annotations of chosen images and categories.

    Attributes:
        images, categories: (G,) by position among the ascending ids, ascending by image, then by category.
        boxes: (G, 4) x, y, width, height; areas: (G,) square pixels.
        is_crowd, is_ignored: (G,); a crowd is always ignored. is_unseen: (G,) the id is 0.
    """

    images: np.ndarray
    categories: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    is_crowd: np.ndarray
    is_ignored: np.ndarray
    is_unseen: np.ndarray


def read_truth(ground_truth: COCO, image_ids: Sequence[Any], category_ids: Sequence[Any]) -> CocoTruth:
    """The annotations of these images and categories (ids ascending), which need `area` and `iscrowd`.

    As pycocotools does, takes for every annotation of an id the last one that has it.
    """
    image_number = {image_id: number for number, image_id in enumerate(image_ids)}
    category_number = {category_id: number for number, category_id in enumerate(category_ids)}
    found = [
        ground_truth.anns[annotation["id"]]
        for image_id in image_ids
        for annotation in ground_truth.imgToAnns.get(image_id, ())
        if annotation["category_id"] in category_number
    ]
    images = np.array([image_number.get(record["image_id"], -1) for record in found], dtype=np.int64)
    categories = np.array([category_number.get(record["category_id"], -1) for record in found], dtype=np.int64)
    order = np.lexsort((categories, images))
    order = order[(images[order] >= 0) & (categories[order] >= 0)]
    columns = (
        images,
        categories,
        np.array([record["bbox"] for record in found], dtype=np.float64).reshape(-1, 4),
        np.array([record["area"] for record in found], dtype=np.float64),
        np.array([int(record["iscrowd"]) != 0 for record in found], dtype=bool),
        np.array([bool(record["iscrowd"]) for record in found], dtype=bool),
        np.array([_is_zero(record["id"]) for record in found], dtype=bool),
    )
    return CocoTruth(*(column[order] for column in columns))


def _is_zero(annotation_id: Any) -> bool:
    """Whether pycocotools, which keeps the ids of matches as numbers, takes an id for "found nothing"."""
    try:
        return float(annotation_id) == 0
    except (TypeError, ValueError):
        return False


def coco_curves(truth: CocoTruth, columns: Columns, num_categories: int) -> PrecisionRecall:
    """Precision (T, 101, K, A, M) and recall (T, K, A, M) of detections for each of MAX_DETECTIONS, M of them.

    Of equal scores the detection that stands earlier in `columns` counts as the better.
    """
    truth_ignored = truth.is_ignored[:, None] | is_outside(truth.areas)
    num_truths = np.zeros((num_categories, len(AREA_RANGES)), dtype=np.int64)
    np.add.at(num_truths, truth.categories, ~truth_ignored)
    keys = columns.images.astype(np.int64) * num_categories + columns.categories
    best = best_of_group(keys, columns.scores, MAX_DETECTIONS[-1])
    columns, keys = columns.take(best), keys[best]
    boxes = columns.boxes.astype(np.float64)
    matches = match_greedily(
        keys,
        boxes,
        truth.images * num_categories + truth.categories,
        truth.boxes,
        truth_ignored,
        IOU_THRESHOLDS,
        truth_is_crowd=truth.is_crowd,
        truth_is_unseen=truth.is_unseen,
    )
    is_ignored = is_outside(boxes[:, 2] * boxes[:, 3])
    positions = position_in_group(keys)
    curves = []
    for limit in MAX_DETECTIONS:
        rows = np.flatnonzero(positions < limit)
        within = columns.take(rows)
        curves.append(
            precision_recall(
                within.categories, within.scores, matches.take(rows, len(keys)), is_ignored[rows], num_truths
            )
        )
    return PrecisionRecall(*(np.stack(parts, axis=-1) for parts in zip(*curves, strict=True)))
