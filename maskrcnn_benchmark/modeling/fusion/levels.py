"""Pyramid levels as one sequence of locations, and back."""

from collections.abc import Sequence

import torch
from torch import Tensor


def flatten_levels(levels: Sequence[Tensor]) -> Tensor:
    """Levels (B, C, H_l, W_l) -> (B, N, C), finest level first, each row by row."""
    return torch.cat([level.permute(0, 2, 3, 1).flatten(1, 2) for level in levels], 1)


def split_levels(x: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """(B, N, C) -> levels (B, C, H_l, W_l) of the sizes of `like`; on a CPU views that lie channels-last."""
    sizes = [level.shape[-2:] for level in like]
    parts = x.split([h * w for h, w in sizes], dim=1)
    levels = [part.unflatten(1, tuple(size)).permute(0, 3, 1, 2) for part, size in zip(parts, sizes, strict=True)]
    return [level.contiguous() for level in levels] if x.is_cuda else levels
