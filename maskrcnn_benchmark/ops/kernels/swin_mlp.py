"""The second half of a Swin block in one kernel: residual sum, LayerNorm, MLP, residual sum, LayerNorm of what follows.

The hidden numbers, four times as many as those of the residual stream, never leave the chip. Worth it for narrow
stages, whose matrix products are limited by memory.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .gelu import gelu
from .swin_norm import LayerNormWeights
from .triton_support import jit, runs_kernels, tl, triton

WIDEST = 192  # channels whose sums fit into the registers


class MlpWeights(NamedTuple):
    """w1 (C, hidden), b1 (hidden,), w2 (hidden, C), b2 (C,): matrices in the type of the operands, biases float32."""

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor

    @classmethod
    def of(cls, fc1: nn.Linear, fc2: nn.Linear, dtype: torch.dtype, gamma: Tensor | None = None) -> MlpWeights:
        """gamma (C,) scales what fc2 returns."""
        w2, b2 = fc2.weight.detach().float(), fc2.bias.detach().float()
        if gamma is not None:
            w2, b2 = gamma.detach()[:, None] * w2, gamma.detach() * b2
        w1 = fc1.weight.detach().to(dtype).t().contiguous()
        return cls(w1, fc1.bias.detach().float(), w2.to(dtype).t().contiguous(), b2)


class Tiling(NamedTuple):
    """Rows of one program, hidden numbers at a time, warps, depth of the software pipeline."""

    rows: int
    hidden: int
    num_warps: int
    num_stages: int


def find_tiling(width: int) -> Tiling:
    """The measured choice for rows of `width` numbers."""
    return Tiling(64, 32, 4, 3 if width <= 96 else 2)


def split_width(width: int) -> tuple[int, int]:
    """Columns as one or two powers of 2 (96 = 64 + 32); the second is 0 where one is enough.

    Raises: ValueError if two are not enough.
    """
    first = 1 << (width.bit_length() - 1)
    rest = width - first
    if rest & (rest - 1) or first < 16 or 0 < rest < 16:
        raise ValueError(f"width={width} is neither a power of 2 of at least 16 nor the sum of two")
    return first, rest


def is_worthwhile(width: int, hidden: int, dtype: torch.dtype) -> bool:
    """Whether `swin_mlp` takes a block of these sizes and beats separate kernels."""
    if dtype == torch.float32 or width > WIDEST or hidden % find_tiling(width).hidden:
        return False
    try:
        split_width(width)
    except ValueError:
        return False
    return True


def swin_mlp_reference(
    residual: Tensor, branch: Tensor, norm: LayerNormWeights, mlp: MlpWeights, next_norm: LayerNormWeights | None
) -> tuple[Tensor, Tensor | None]:
    """The definition of `swin_mlp`."""
    dtype = branch.dtype
    total = residual + branch.float()
    hidden = F.gelu((norm.normalise(total).to(dtype) @ mlp.w1).float() + mlp.b1).to(dtype)
    total = total + (hidden @ mlp.w2).float() + mlp.b2
    return total, None if next_norm is None else next_norm.normalise(total).to(dtype)


@jit
def _load_sum(residual: tl.tensor, branch: tl.tensor, place: tl.tensor, is_row: tl.tensor) -> tl.tensor:
    return tl.load(residual + place, mask=is_row, other=0.0) + tl.load(branch + place, mask=is_row, other=0.0)


@jit
def _scale(x: tl.tensor, inverse: tl.tensor, weight: tl.tensor, bias: tl.tensor, columns: tl.tensor) -> tl.tensor:
    """The last step of LayerNorm for some of the columns."""
    return x * inverse[:, None] * tl.load(weight + columns)[None, :] + tl.load(bias + columns)[None, :]


@jit
def _swin_mlp_kernel(
    residual: tl.tensor,
    branch: tl.tensor,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    w1: tl.tensor,
    b1: tl.tensor,
    w2: tl.tensor,
    b2: tl.tensor,
    next_weight: tl.tensor,
    next_bias: tl.tensor,
    total: tl.tensor,
    normed: tl.tensor,
    rows: int,
    eps: float,
    next_eps: float,
    first: tl.constexpr,
    rest: tl.constexpr,
    hidden: tl.constexpr,
    tile_rows: tl.constexpr,
    hidden_block: tl.constexpr,
    dot: tl.constexpr,
) -> None:
    """Columns are held in two tiles, `first` and `rest` wide, whose widths are powers of 2."""
    width: tl.constexpr = first + rest
    row = tl.arange(0, tile_rows)
    is_row = (row < rows - tl.program_id(0) * tile_rows)[:, None]
    first_number = tl.program_id(0).to(tl.int64) * tile_rows * width
    residual += first_number
    branch += first_number
    total += first_number
    start = row[:, None] * width
    columns = tl.arange(0, first)
    x = _load_sum(residual, branch, start + columns[None, :], is_row)
    mean = tl.sum(x, 1)
    if rest:
        rest_columns = first + tl.arange(0, rest)
        rest_x = _load_sum(residual, branch, start + rest_columns[None, :], is_row)
        mean += tl.sum(rest_x, 1)
    mean /= width
    x -= mean[:, None]
    variance = tl.sum(x * x, 1)
    if rest:
        rest_x -= mean[:, None]
        variance += tl.sum(rest_x * rest_x, 1)
    inverse = 1.0 / tl.sqrt(variance / width + eps)
    operand = _scale(x, inverse, norm_weight, norm_bias, columns).to(w1.dtype.element_ty)
    change = tl.zeros((tile_rows, first), tl.float32)
    if rest:
        rest_operand = _scale(rest_x, inverse, norm_weight, norm_bias, rest_columns).to(w1.dtype.element_ty)
        rest_change = tl.zeros((tile_rows, rest), tl.float32)
    for block in range(0, hidden, hidden_block):
        inner = block + tl.arange(0, hidden_block)
        z = tl.dot(operand, tl.load(w1 + columns[:, None] * hidden + inner[None, :]), input_precision=dot)
        if rest:
            rest_w1 = tl.load(w1 + rest_columns[:, None] * hidden + inner[None, :])
            z = tl.dot(rest_operand, rest_w1, z, input_precision=dot)
        z += tl.load(b1 + inner)[None, :]
        z = gelu(z).to(w2.dtype.element_ty)
        change = tl.dot(z, tl.load(w2 + inner[:, None] * width + columns[None, :]), change, input_precision=dot)
        if rest:
            rest_w2 = tl.load(w2 + inner[:, None] * width + rest_columns[None, :])
            rest_change = tl.dot(z, rest_w2, rest_change, input_precision=dot)
    # The sum is read again: that is cheaper than its registers during the products.
    x = _load_sum(residual, branch, start + columns[None, :], is_row) + change + tl.load(b2 + columns)[None, :]
    tl.store(total + start + columns[None, :], x, mask=is_row)
    if rest:
        rest_x = _load_sum(residual, branch, start + rest_columns[None, :], is_row) + rest_change
        rest_x += tl.load(b2 + rest_columns)[None, :]
        tl.store(total + start + rest_columns[None, :], rest_x, mask=is_row)
    if normed is not None:
        normed += first_number
        mean = tl.sum(x, 1)
        if rest:
            mean += tl.sum(rest_x, 1)
        mean /= width
        x -= mean[:, None]
        variance = tl.sum(x * x, 1)
        if rest:
            rest_x -= mean[:, None]
            variance += tl.sum(rest_x * rest_x, 1)
        inverse = 1.0 / tl.sqrt(variance / width + next_eps)
        y = _scale(x, inverse, next_weight, next_bias, columns).to(normed.dtype.element_ty)
        tl.store(normed + start + columns[None, :], y, mask=is_row)
        if rest:
            y = _scale(rest_x, inverse, next_weight, next_bias, rest_columns).to(normed.dtype.element_ty)
            tl.store(normed + start + rest_columns[None, :], y, mask=is_row)


def swin_mlp(
    residual: Tensor,
    branch: Tensor,
    norm: LayerNormWeights,
    mlp: MlpWeights,
    next_norm: LayerNormWeights | None,
    *,
    tiling: Tiling | None = None,
) -> tuple[Tensor, Tensor | None]:
    """x = residual + branch; x + MLP(LayerNorm(x)) with the exact GELU, and the next LayerNorm of that.

    Args:
        residual: (R, C) float32; C is a power of 2 or the sum of two, see `split_width`.
        branch: (R, C) in the type of the operands.
        norm, next_norm: over the C numbers of a row; None leaves out what follows.
        mlp: hidden numbers are a multiple of those of the tiling.
        tiling: None takes that of `find_tiling`.
    Returns: the new residual (R, C) float32 and, in the type of branch, its LayerNorm or None.
    """
    if not runs_kernels(residual):
        return swin_mlp_reference(residual, branch, norm, mlp, next_norm)
    rows, width = residual.shape
    first, rest = split_width(width)
    total = torch.empty_like(residual)
    normed = None if next_norm is None else torch.empty_like(branch)
    following = next_norm or norm
    tiling = tiling or find_tiling(width)
    _swin_mlp_kernel[(triton.cdiv(rows, tiling.rows),)](
        residual,
        branch,
        norm.weight,
        norm.bias,
        *mlp,
        following.weight,
        following.bias,
        total,
        normed,
        rows,
        norm.eps,
        following.eps,
        first,
        rest,
        mlp.w1.shape[1],
        tiling.rows,
        tiling.hidden,
        "ieee",
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
    )
    return total, normed
