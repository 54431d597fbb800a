"""Detections of many images as columns, one row for each."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Columns(NamedTuple):
    """Detections: images and categories (N,) by position among the ascending ids, boxes (N, 4) xywh, scores (N,)."""

    images: np.ndarray
    categories: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    def take(self, rows: np.ndarray) -> "Columns":
        """The rows of a mask or of positions, in their order."""
        return Columns(*(column[rows] for column in self))

    @classmethod
    def join(cls, parts: Iterable["Columns"]) -> "Columns":
        """All rows of all parts."""
        empty = cls(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
        return cls(*(np.concatenate(columns) for columns in zip(empty, *parts, strict=True)))


def best_of_group(groups: np.ndarray, scores: np.ndarray, limit: int) -> np.ndarray:
    """Positions of the best scores of each group, group by group, the best first; of equal scores the earlier ones."""
    order = np.lexsort((-scores, groups))
    in_order = groups[order]
    position = np.arange(len(order)) - np.searchsorted(in_order, in_order, "left")
    return order[position < limit]
