"""Pyramid levels as one sequence of locations, and back."""

from collections.abc import Sequence

import torch
from torch import Tensor


def flatten_levels(levels: Sequence[Tensor]) -> Tensor:
    """Levels (B, C, H_l, W_l) -> (B, N, C), finest level first, each row by row."""
    return torch.cat([level.flatten(2) for level in levels], 2).transpose(1, 2)


def split_levels(x: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """(B, N, C) -> contiguous levels (B, C, H_l, W_l) of the sizes of `like`."""
    sizes = [level.shape[-2:] for level in like]
    parts = x.transpose(1, 2).split([h * w for h, w in sizes], dim=2)
    return [part.unflatten(2, tuple(size)).contiguous() for part, size in zip(parts, sizes, strict=True)]
