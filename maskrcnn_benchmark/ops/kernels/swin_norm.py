"""Row kernels of a Swin Transformer around its matrix products: residual sums with LayerNorm, merging of 2x2 tokens.

The residual stream is float32, operands of matrix products have the type of the branches; statistics are float32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .triton_support import jit, next_power_of_2, runs_kernels, tl, triton

TILE_NUMBERS = 2048  # of one program: 16 for each thread of four warps


class LayerNormWeights(NamedTuple):
    """weight and bias (C,) float32, and the number that keeps the variance away from zero."""

    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> LayerNormWeights:
        return cls(norm.weight.detach().float(), norm.bias.detach().float(), norm.eps)

    def normalise(self, x: Tensor) -> Tensor:
        """LayerNorm of rows of float32."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@jit
def normalise_rows(
    x: tl.tensor, weight: tl.tensor, bias: tl.tensor, eps: float, width: tl.constexpr, block: tl.constexpr
) -> tl.tensor:
    """LayerNorm of the rows of x (rows, block), whose numbers beyond `width` are zero."""
    columns = tl.arange(0, block)
    is_used = columns < width
    mean = tl.sum(x, 1) / width
    centred = tl.where(is_used[None, :], x - mean[:, None], 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / width + eps)
    gain = tl.load(weight + columns, mask=is_used, other=0.0)
    offset = tl.load(bias + columns, mask=is_used, other=0.0)
    return centred * inverse[:, None] * gain[None, :] + offset[None, :]


@jit
def _add_layer_norm_kernel(
    residual: tl.tensor,
    branch: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    total: tl.tensor,
    normed: tl.tensor,
    rows: int,
    eps: float,
    width: tl.constexpr,
    block: tl.constexpr,
    tile_rows: tl.constexpr,
) -> None:
    row = tl.program_id(0) * tile_rows + tl.arange(0, tile_rows)
    columns = tl.arange(0, block)
    place = row.to(tl.int64)[:, None] * width + columns[None, :]
    is_used = (row < rows)[:, None] & (columns < width)[None, :]
    x = tl.zeros((tile_rows, block), tl.float32)
    if branch is not None:
        x += tl.load(branch + place, mask=is_used, other=0.0).to(tl.float32)
    if residual is not None:
        x += tl.load(residual + place, mask=is_used, other=0.0)
    if total is not None:
        tl.store(total + place, x, mask=is_used)
    y = normalise_rows(x, weight, bias, eps, width, block)
    tl.store(normed + place, y.to(normed.dtype.element_ty), mask=is_used)


def add_layer_norm_reference(
    residual: Tensor | None,
    branch: Tensor | None,
    norm: LayerNormWeights,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The definition of `add_layer_norm`."""
    terms = [term.float() for term in (residual, branch) if term is not None]
    total = sum(terms[1:], terms[0])
    return total, norm.normalise(total).to(dtype)


def add_layer_norm(
    residual: Tensor | None,
    branch: Tensor | None,
    norm: LayerNormWeights,
    dtype: torch.dtype,
    *,
    needs_total: bool = True,
) -> tuple[Tensor | None, Tensor]:
    """The sum residual + branch, and its LayerNorm.

    Args:
        residual: (R, C) float32, or None for nothing.
        branch: (R, C), or None for nothing; one of the two is there.
        norm: over the C numbers of a row.
        dtype: of the normalised rows.
        needs_total: False leaves out the sum.
    Returns: the sum (R, C) float32 or None, the normalised rows (R, C) in dtype; all contiguous.
    """
    first = residual if residual is not None else branch
    assert first is not None
    if not runs_kernels(first):
        exact, normed = add_layer_norm_reference(residual, branch, norm, dtype)
        return (exact if needs_total else None), normed
    rows, width = first.shape
    total = torch.empty(rows, width, dtype=torch.float32, device=first.device) if needs_total else None
    normed = torch.empty(rows, width, dtype=dtype, device=first.device)
    block = next_power_of_2(width)
    tile_rows = max(1, TILE_NUMBERS // block)
    _add_layer_norm_kernel[(triton.cdiv(rows, tile_rows),)](
        residual, branch, norm.weight, norm.bias, total, normed, rows, norm.eps, width, block, tile_rows
    )
    return total, normed


@jit
def _merge_layer_norm_kernel(
    residual: tl.tensor,
    branch: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    normed: tl.tensor,
    rows: int,
    height: int,
    map_width: int,
    eps: float,
    channels: tl.constexpr,
    block: tl.constexpr,
    tile_rows: tl.constexpr,
) -> None:
    row = tl.program_id(0) * tile_rows + tl.arange(0, tile_rows)
    columns = tl.arange(0, block)
    quarter = columns // channels
    channel = columns % channels
    merged_height, merged_width = (height + 1) // 2, (map_width + 1) // 2
    image = row // (merged_height * merged_width)
    y = 2 * (row // merged_width % merged_height)[:, None] + (quarter % 2)[None, :]
    x = 2 * (row % merged_width)[:, None] + (quarter // 2)[None, :]
    is_used = (row < rows)[:, None] & (columns < 4 * channels)[None, :]
    is_inside = is_used & (y < height) & (x < map_width)
    token = (image[:, None] * height + y).to(tl.int64) * map_width + x
    place = token * channels + channel[None, :]
    numbers = tl.load(residual + place, mask=is_inside, other=0.0)
    if branch is not None:
        numbers += tl.load(branch + place, mask=is_inside, other=0.0).to(tl.float32)
    merged = normalise_rows(numbers, weight, bias, eps, 4 * channels, block)
    out = row.to(tl.int64)[:, None] * (4 * channels) + columns[None, :]
    tl.store(normed + out, merged.to(normed.dtype.element_ty), mask=is_used)


def merge_layer_norm_reference(
    residual: Tensor,
    branch: Tensor | None,
    norm: LayerNormWeights,
    dtype: torch.dtype,
    size: tuple[int, int],
) -> Tensor:
    """The definition of `merge_layer_norm`."""
    if branch is not None:
        residual = residual + branch.float()
    height, width = size
    x = residual.view(-1, height, width, residual.shape[-1])
    x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
    x = torch.cat((x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]), -1).flatten(0, 2)
    return norm.normalise(x).to(dtype)


def merge_layer_norm(
    residual: Tensor,
    branch: Tensor | None,
    norm: LayerNormWeights,
    dtype: torch.dtype,
    size: tuple[int, int],
) -> Tensor:
    """LayerNorm of the joined tokens of every 2x2 square of residual + branch, zeros beyond an odd edge.

    Args:
        residual, branch: (B * H * W, C) float32 and any type; no branch is nothing.
        norm: over the 4 C numbers of four tokens.
        dtype: of the result.
        size: (H, W).
    Returns: (B * ceil(H / 2) * ceil(W / 2), 4 C): upper left, lower left, upper right, lower right token.
    """
    if not runs_kernels(residual):
        return merge_layer_norm_reference(residual, branch, norm, dtype, size)
    (height, width), channels = size, residual.shape[-1]
    rows = residual.shape[0] // (height * width) * (-(-height // 2)) * (-(-width // 2))
    normed = torch.empty(rows, 4 * channels, dtype=dtype, device=residual.device)
    block = next_power_of_2(4 * channels)
    tile_rows = max(1, TILE_NUMBERS // block)
    _merge_layer_norm_kernel[(triton.cdiv(rows, tile_rows),)](
        residual, branch, norm.weight, norm.bias, normed, rows, height, width, norm.eps, channels, block, tile_rows
    )
    return normed
