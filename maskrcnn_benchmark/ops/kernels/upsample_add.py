"""The top-down step of a feature pyramid: a map plus the next coarser one, enlarged by nearest neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .triton_support import jit, next_power_of_2, runs_kernels, tl, triton

TILE_NUMBERS = 2048  # of one program


def upsample_add_reference(fine: Tensor, coarse: Tensor) -> Tensor:
    """The definition of `upsample_add`."""
    enlarged = F.interpolate(coarse.permute(0, 3, 1, 2), size=fine.shape[1:3], mode="nearest")
    return fine + enlarged.permute(0, 2, 3, 1)


@jit
def _upsample_add_kernel(
    fine: tl.tensor,
    coarse: tl.tensor,
    out: tl.tensor,
    rows: int,
    height: int,
    width: int,
    coarse_height: int,
    coarse_width: int,
    scale_y: float,
    scale_x: float,
    channels: tl.constexpr,
    block: tl.constexpr,
    tile_rows: tl.constexpr,
) -> None:
    row = tl.program_id(0) * tile_rows + tl.arange(0, tile_rows)
    columns = tl.arange(0, block)
    is_used = (row < rows)[:, None] & (columns < channels)[None, :]
    image = row // (height * width)
    y = tl.minimum(((row // width % height).to(tl.float32) * scale_y).to(tl.int32), coarse_height - 1)
    x = tl.minimum(((row % width).to(tl.float32) * scale_x).to(tl.int32), coarse_width - 1)
    source = ((image * coarse_height + y).to(tl.int64) * coarse_width + x)[:, None] * channels + columns[None, :]
    place = row.to(tl.int64)[:, None] * channels + columns[None, :]
    enlarged = tl.load(coarse + source, mask=is_used, other=0.0).to(tl.float32)
    total = tl.load(fine + place, mask=is_used, other=0.0).to(tl.float32) + enlarged
    tl.store(out + place, total.to(out.dtype.element_ty), mask=is_used)


def upsample_add(fine: Tensor, coarse: Tensor) -> Tensor:
    """fine (B, H, W, C) + coarse (B, h, w, C) at the nearest places as `F.interpolate` finds them; both contiguous."""
    if not runs_kernels(fine):
        return upsample_add_reference(fine, coarse)
    _, height, width, channels = fine.shape
    _, coarse_height, coarse_width, _ = coarse.shape
    out = torch.empty_like(fine)
    rows = fine.numel() // channels
    block = next_power_of_2(channels)
    tile_rows = max(1, TILE_NUMBERS // block)
    _upsample_add_kernel[(triton.cdiv(rows, tile_rows),)](
        fine,
        coarse,
        out,
        rows,
        height,
        width,
        coarse_height,
        coarse_width,
        coarse_height / height,
        coarse_width / width,
        channels,
        block,
        tile_rows,
    )
    return out
