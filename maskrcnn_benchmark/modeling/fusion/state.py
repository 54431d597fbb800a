"""What flows through the tower of the head."""

from typing import NamedTuple

from torch import Tensor


class TowerState(NamedTuple):
    """Pyramid and text between two modules of the tower.

    Attributes:
        visual: levels, finest first, each (B, C, H_l, W_l).
        hidden: text (B, T, D); masks: (B, T), 1 = word; aggregate: (B, D) pooled text or None.
    """

    visual: list[Tensor]
    hidden: Tensor
    masks: Tensor
    aggregate: Tensor | None = None
