"""What every evaluation has in common."""

from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils import comm


class Evaluator(ABC):
    """Collects predictions item by item, joins those of all processes, and computes figures.

    An item that comes twice, as samplers of several processes pad, counts once.
    """

    def __init__(self) -> None:
        self._items: dict[Hashable, Any] = {}

    def reset(self) -> None:
        """Forgets everything collected."""
        self._items = {}

    @abstractmethod
    def update(self, *args: Any, **kwargs: Any) -> None:
        """Takes in the predictions for one item."""

    def gather(self) -> bool:
        """Joins the items of all processes; returns whether this process has them all and may summarize."""
        merged: dict[Hashable, Any] = {}
        for items in comm.all_gather(self._items):
            merged = {**items, **merged}
        self._items = merged
        return comm.is_main_process()

    @abstractmethod
    def summarize(self) -> dict[str, float]:
        """Figures by name over everything collected."""


def scores_and_labels(prediction: BoxList) -> tuple[Tensor, Tensor]:
    """`scores` (N,) and `labels` (N,) of found boxes; where there are no boxes, the fields may be missing."""
    if len(prediction) == 0 and not (prediction.has_field("scores") and prediction.has_field("labels")):
        return torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    return prediction.get_field("scores"), prediction.get_field("labels")


def plain_identifier(identifier: Any) -> Any:
    """The number in a tensor of one element; anything else as it is."""
    return identifier.item() if isinstance(identifier, Tensor) else identifier
