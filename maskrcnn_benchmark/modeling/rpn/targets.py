"""What the anchors of a batch are trained to predict, and which of them train boxes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Targets(NamedTuple):
    """What the anchors of a batch are trained to predict; R is the number of boxes of the batch.

    labels: (B, N) int64, 0 for unmatched anchors.
    box_rows: (B, N) int64, the matched box counted over the batch, R for unmatched anchors.
    boxes: (R, 4) xyxy, images one after another.
    """

    labels: Tensor
    box_rows: Tensor
    boxes: Tensor

    @property
    def is_positive(self) -> Tensor:
        """(B, N) bool, whether an anchor has a box."""
        return self.box_rows < len(self.boxes)

    def look_up(self, table: Tensor, unmatched: Tensor) -> Tensor:
        """Values (R, ...) of boxes for the anchors -> (B, N, ...); unmatched anchors get `unmatched` (...)."""
        return torch.cat((table, unmatched[None]))[self.box_rows]


class Normalizers(NamedTuple):
    """What the loss terms are divided by: number of positive anchors, sum of their centerness targets, per rank."""

    num_positives: Tensor
    sum_weights: Tensor


class Positives(NamedTuple):
    """The anchors of a batch that have a box, at a number of places that is known without looking at them.

    index: (P,) int64 into all B N anchors, those with a box first, then 0; is_real: (P,) bool, True for the first.
    """

    index: Tensor
    is_real: Tensor

    @classmethod
    def find(cls, mask: Tensor, most: int) -> Positives:
        """mask (B, N) bool with at most `most` True -> their places, without waiting for the device."""
        most = min(most, mask.numel())
        index = torch.nonzero_static(mask.flatten(), size=most, fill_value=0)[:, 0]
        return cls(index, torch.arange(most, device=mask.device) < mask.sum())

    def look_up(self, values: Tensor) -> Tensor:
        """Values (B, N, ...) of all anchors -> (P, ...), 0 where there is no anchor, whatever the first one has."""
        chosen = values.flatten(0, 1)[self.index]
        return torch.where(self.is_real.view(-1, *[1] * (chosen.dim() - 1)), chosen, 0)
