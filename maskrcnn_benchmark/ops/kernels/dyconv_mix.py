"""What follows the convolutions of a dynamic head layer: GroupNorm, scale attention, mixing, DyReLU, LayerNorm.

GroupNorm and the attention over scales multiply and shift whole channels of an image, so the spatial means that the
attention and DyReLU (arXiv:2106.08322, arXiv:2003.10027) ask for follow from sums over the convolutions' outputs. The
maps themselves are read once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .deform_conv import store_partial_sums
from .triton_support import jit, jit_for_sizes, tl

MIX_ROWS = 16


class BranchWeights(NamedTuple):
    """Float32: weight and bias (number, C) of the GroupNorms, weight (C,) and bias (1,) of the scale attention."""

    norm_weight: Tensor
    norm_bias: Tensor
    attention: Tensor
    attention_bias: Tensor


class ActivationWeights(NamedTuple):
    """The two linear layers of DyReLU, float32: (hidden, C), (hidden,), (4 * C, hidden), (4 * C,)."""

    first: Tensor
    first_bias: Tensor
    second: Tensor
    second_bias: Tensor


@jit_for_sizes("num_blocks", "image_rows")
def _row_sums_kernel(
    x: tl.tensor,
    shares: tl.tensor,
    partials: tl.tensor,
    tasks: tl.tensor,
    blocks: tl.tensor,
    num_blocks: int,
    image_rows: int,
    C: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
) -> None:
    """The partial sums of finished rows, for convolutions that do not make them."""
    block = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    task = tasks + tl.load(blocks + 2 * block) * 10
    places = tl.load(blocks + 2 * block + 1) + tl.arange(0, BLOCK_ROWS)
    used = places < tl.load(task + 4) * tl.load(task + 5)
    rows = tl.load(task + 3) + places
    channels = tl.arange(0, C)
    taken = tl.load(x + (image * image_rows + rows)[:, None] * C + channels[None, :], mask=used[:, None], other=0.0).to(
        tl.float32
    )
    weights = tl.load(shares + rows, mask=used, other=0.0)
    store_partial_sums(partials + (image * num_blocks + block) * (3 * C), taken, weights, used, channels, C)


@jit
def _group_mean(x: tl.tensor, C: tl.constexpr, GROUPS: tl.constexpr) -> tl.tensor:
    """(C,) -> the mean over the group of every channel, (C,)."""
    groups = tl.reshape(x, (GROUPS, C // GROUPS))
    means = tl.sum(groups, 1) / (C // GROUPS)
    return tl.reshape(tl.broadcast_to(means[:, None], (GROUPS, C // GROUPS)), (C,))


@jit
def _hard_sigmoid(x: tl.tensor) -> tl.tensor:
    return tl.minimum(tl.maximum(x + 3.0, 0.0), 6.0) / 6.0


@jit_for_sizes("num_blocks")
def _branch_kernel(
    partials: tl.tensor,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    attention: tl.tensor,
    attention_bias: tl.tensor,
    out: tl.tensor,
    branches: tl.tensor,
    tasks: tl.tensor,
    num_blocks: int,
    eps: float,
    C: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BATCH: tl.constexpr,
) -> None:
    """Scale, shift and spatial mean of one branch in one image, its attention and share of the mean included."""
    index, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    branch, task = branches + index * 3, tasks + index * 10
    first_block, used_blocks = tl.load(branch), tl.load(branch + 1)
    divisor = tl.load(branch + 2).to(tl.float32)
    count = tl.load(task + 4) * tl.load(task + 5)
    weight_index = tl.load(task + 7)
    channels = tl.arange(0, C)
    partials += (image * num_blocks + first_block) * (3 * C)

    total, squares, weighted = tl.zeros((C,), tl.float32), tl.zeros((C,), tl.float32), tl.zeros((C,), tl.float32)
    first = used_blocks * 0
    while first < used_blocks:
        blocks = first + tl.arange(0, BATCH)
        used = (blocks < used_blocks)[:, None]
        source = partials + blocks[:, None] * (3 * C) + channels[None, :]
        total += tl.sum(tl.load(source, mask=used, other=0.0), 0)
        squares += tl.sum(tl.load(source + C, mask=used, other=0.0), 0)
        weighted += tl.sum(tl.load(source + 2 * C, mask=used, other=0.0), 0)
        first += BATCH
    mean = _group_mean(total / count, C, GROUPS)
    first = used_blocks * 0
    while first < used_blocks:  # distances of the blocks' means from the mean
        blocks = first + tl.arange(0, BATCH)
        rows = tl.minimum(count - blocks * BLOCK_ROWS, BLOCK_ROWS).to(tl.float32)[:, None]
        used = (blocks < used_blocks)[:, None]
        sums = tl.load(partials + blocks[:, None] * (3 * C) + channels[None, :], mask=used, other=0.0)
        distance = sums / rows - mean[None, :]
        squares += tl.sum(tl.where(used, distance * distance * rows, 0.0), 0)
        first += BATCH
    variance = _group_mean(squares / count, C, GROUPS)

    scale = tl.load(norm_weight + weight_index * C + channels) / tl.sqrt(variance + eps)
    shift = tl.load(norm_bias + weight_index * C + channels) - mean * scale
    pooled = scale * weighted + shift
    logit = tl.sum(pooled * tl.load(attention + channels), 0) + tl.load(attention_bias)
    share = _hard_sigmoid(tl.maximum(logit, 0.0)) / divisor
    out += (image * tl.num_programs(0) + index) * (3 * C) + channels
    tl.store(out, scale * share)
    tl.store(out + C, shift * share)
    tl.store(out + 2 * C, pooled * share)


@jit
def _sum_over_branches(branch_sums: tl.tensor, level: tl.tensor, C: tl.constexpr) -> tl.tensor:
    """(C,): the numbers of the up to three branches of a level, added up."""
    channels = tl.arange(0, C)
    total = tl.zeros((C,), tl.float32)
    for branch in tl.static_range(3):
        index = tl.load(level + 3 + branch)
        total += tl.load(branch_sums + index * (3 * C) + channels, mask=(channels >= 0) & (index >= 0), other=0.0)
    return total


@jit_for_sizes("num_tasks")
def _activation_kernel(
    branch_sums: tl.tensor,
    first: tl.tensor,
    first_bias: tl.tensor,
    second: tl.tensor,
    second_bias: tl.tensor,
    out: tl.tensor,
    levels: tl.tensor,
    num_tasks: int,
    C: tl.constexpr,
    HIDDEN: tl.constexpr,
) -> None:
    """One of the four coefficients of DyReLU at one level of one image, or (the fifth) the shift of its mixture."""
    level, image = levels + tl.program_id(0) * 8, tl.program_id(1).to(tl.int64)
    part = tl.program_id(2)
    channels, hidden = tl.arange(0, C), tl.arange(0, HIDDEN)
    branch_sums += image * num_tasks * (3 * C)
    out += ((image * tl.num_programs(0) + tl.program_id(0)) * 5 + part) * C + channels
    if part == 4:
        tl.store(out, _sum_over_branches(branch_sums + C, level, C))
    else:
        pooled = _sum_over_branches(branch_sums + 2 * C, level, C)
        inner = tl.sum(tl.load(first + hidden[:, None] * C + channels[None, :]) * pooled[None, :], 1)
        inner = tl.maximum(inner + tl.load(first_bias + hidden), 0.0)
        rows = part * C + channels
        logits = tl.sum(tl.load(second + rows[:, None] * HIDDEN + hidden[None, :]) * inner[None, :], 1)
        centred = _hard_sigmoid(logits + tl.load(second_bias + rows)) - 0.5
        # slopes (parts 0 and 2) span 2, offsets 1; the first slope is 1 where nothing is predicted
        tl.store(out, centred * tl.where(part % 2 == 0, 2.0, 1.0) + tl.where(part == 0, 1.0, 0.0))


@jit_for_sizes("num_blocks", "num_levels", "num_tasks", "image_rows", "out_rows")
def _mix_kernel(
    x: tl.tensor,
    branch_sums: tl.tensor,
    coefficients: tl.tensor,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    out: tl.tensor,
    levels: tl.tensor,
    tasks: tl.tensor,
    blocks: tl.tensor,
    num_blocks: int,
    num_levels: int,
    num_tasks: int,
    image_rows: int,
    out_rows: int,
    eps: float,
    C: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    HAS_NORM: tl.constexpr,
) -> None:
    block, image = tl.program_id(0) % num_blocks, (tl.program_id(0) // num_blocks).to(tl.int64)
    level_index = tl.load(blocks + 2 * block)
    level = levels + level_index * 8
    start, height, width = tl.load(level), tl.load(level + 1), tl.load(level + 2)
    own, finer, coarser = tl.load(level + 3), tl.load(level + 4), tl.load(level + 5)
    places = tl.load(blocks + 2 * block + 1) + tl.arange(0, BLOCK_ROWS)
    used = (places < height * width)[:, None]
    channels = tl.arange(0, C)
    columns = channels[None, :]
    x += image * image_rows * C
    branch_sums += image * num_tasks * (3 * C) + channels
    coefficients += (image * num_levels + level_index) * (5 * C) + channels

    first = tl.load(tasks + own * 10 + 3) + places
    y = tl.load(x + first[:, None] * C + columns, mask=used, other=0.0).to(tl.float32)
    y = y * tl.load(branch_sums + own * (3 * C))[None, :] + tl.load(coefficients + 4 * C)[None, :]
    if finer >= 0:
        rows = tl.load(tasks + finer * 10 + 3) + places
        taken = tl.load(x + rows[:, None] * C + columns, mask=used, other=0.0).to(tl.float32)
        y += taken * tl.load(branch_sums + finer * (3 * C))[None, :]
    if coarser >= 0:
        task = tasks + coarser * 10
        small_height, small_width = tl.load(task + 4), tl.load(task + 5)
        down = (places // width).to(tl.float32) * ((small_height - 1).to(tl.float32) / tl.maximum(height - 1, 1))
        right = (places % width).to(tl.float32) * ((small_width - 1).to(tl.float32) / tl.maximum(width - 1, 1))
        top = tl.minimum(down.to(tl.int32), small_height - 1)
        left = tl.minimum(right.to(tl.int32), small_width - 1)
        down, right = (down - top)[:, None], (right - left)[:, None]
        bottom, next_left = tl.minimum(top + 1, small_height - 1), tl.minimum(left + 1, small_width - 1)
        source = x + tl.load(task + 3) * C + columns
        a = tl.load(source + (top * small_width + left)[:, None] * C, mask=used, other=0.0).to(tl.float32)
        b = tl.load(source + (top * small_width + next_left)[:, None] * C, mask=used, other=0.0).to(tl.float32)
        c = tl.load(source + (bottom * small_width + left)[:, None] * C, mask=used, other=0.0).to(tl.float32)
        d = tl.load(source + (bottom * small_width + next_left)[:, None] * C, mask=used, other=0.0).to(tl.float32)
        resized = (a * (1 - right) + b * right) * (1 - down) + (c * (1 - right) + d * right) * down
        y += resized * tl.load(branch_sums + coarser * (3 * C))[None, :]

    piece = y * tl.load(coefficients)[None, :] + tl.load(coefficients + C)[None, :]
    other = y * tl.load(coefficients + 2 * C)[None, :] + tl.load(coefficients + 3 * C)[None, :]
    y = tl.maximum(piece, other)
    if HAS_NORM:
        centred = y - tl.sum(y, 1)[:, None] / C
        inverse = tl.rsqrt(tl.sum(centred * centred, 1)[:, None] / C + eps)
        y = centred * inverse * tl.load(norm_weight + columns) + tl.load(norm_bias + columns)
    target = out + ((image * out_rows + start) + places)[:, None] * C + columns
    tl.store(target, y.to(out.dtype.element_ty), mask=used)


def row_sums(x: Tensor, shares: Tensor, tasks: Tensor, blocks: Tensor, block_rows: int) -> Tensor:
    """Partial sums (B, number of blocks, 3, C) of x (B, R, C), as `deform_conv_rows` returns them."""
    batch, rows, channels = x.shape
    partials = x.new_empty(batch, len(blocks), 3, channels, dtype=torch.float32)
    _row_sums_kernel[(len(blocks), batch)](
        x, shares, partials, tasks, blocks, len(blocks), rows, channels, block_rows, num_warps=8
    )
    return partials


def branch_coefficients(
    partials: Tensor,
    weights: BranchWeights,
    branches: Tensor,
    tasks: Tensor,
    *,
    groups: int,
    eps: float,
    block_rows: int,
) -> Tensor:
    """GroupNorm and scale attention of every branch as one affine map per channel.

    Args:
        partials: of `deform_conv_rows` or `row_sums`, with blocks of `block_rows`.
        branches: (number, 3) int32: first block, number of blocks, number of branches that share the level.
        tasks: of the convolutions, (number, TASK_FIELDS).

    Returns: (B, number, 3, C) float32: scale, shift and spatial mean after them.
    """
    batch, num_blocks, _, channels = partials.shape
    out = partials.new_empty(batch, len(branches), 3, channels)
    _branch_kernel[(len(branches), batch)](
        partials,
        *weights,
        out,
        branches,
        tasks,
        num_blocks,
        eps,
        C=channels,
        GROUPS=groups,
        BLOCK_ROWS=block_rows,
        BATCH=16,
        num_warps=8,
    )
    return out


def activation_coefficients(branch_sums: Tensor, weights: ActivationWeights, levels: Tensor) -> Tensor:
    """DyReLU of every level: (B, L, 5, C) float32 of slope, offset, slope, offset, and the shift of the mixture.

    Args: branch_sums: of `branch_coefficients`; levels: (L, 8) int32: first row, height, width, the tasks of its own,
        its finer and its coarser branch or -1, unused.
    """
    batch, num_tasks, _, channels = branch_sums.shape
    out = branch_sums.new_empty(batch, len(levels), 5, channels)
    _activation_kernel[(len(levels), batch, 5)](
        branch_sums, *weights, out, levels, num_tasks, C=channels, HIDDEN=len(weights.first_bias), num_warps=8
    )
    return out


def mix_branches(
    x: Tensor,
    branch_sums: Tensor,
    coefficients: Tensor,
    levels: Tensor,
    tasks: Tensor,
    blocks: Tensor,
    out: Tensor,
    norm: tuple[Tensor, Tensor, float] | None,
) -> Tensor:
    """The new levels: branches scaled, the coarser one resized (align_corners), summed, activated and normalised.

    Args:
        x: (B, R, C), outputs of the convolutions; blocks: `block_table` of the levels, for MIX_ROWS.
        branch_sums, coefficients, levels, tasks: as above.
        out: (B, N, C), written and returned.
        norm: weight (C,), bias (C,) and eps of a LayerNorm, float32.
    """
    weight, bias, eps = (None, None, 0.0) if norm is None else norm
    _mix_kernel[(x.shape[0] * len(blocks),)](
        x,
        branch_sums,
        coefficients,
        weight,
        bias,
        out,
        levels,
        tasks,
        blocks,
        len(blocks),
        len(levels),
        branch_sums.shape[1],
        x.shape[1],
        out.shape[1],
        eps,
        C=x.shape[2],
        BLOCK_ROWS=MIX_ROWS,
        HAS_NORM=norm is not None,
        num_warps=4,
    )
    return out
