"""3x3 convolution of all levels of a feature pyramid to the offsets and masks of deformable convolutions."""

from __future__ import annotations

import torch
from torch import Tensor

from .triton_support import as_operand, jit_for_sizes, tl

OFFSETS, OUTPUTS, PADDED_OUTPUTS = 18, 27, 32  # (dy, dx) of 9 taps; with their masks; padded for the matrix units
BLOCK_ROWS = 128


@jit_for_sizes("num_blocks", "num_rows")
def _offset_conv_kernel(
    pixels: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    levels: tl.tensor,
    blocks: tl.tensor,
    num_blocks: int,
    num_rows: int,
    C: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    STAGES: tl.constexpr,
    DOT: tl.constexpr,
) -> None:
    block = tl.program_id(0) % num_blocks
    image = (tl.program_id(0) // num_blocks).to(tl.int64)
    level = levels + tl.load(blocks + 2 * block) * 8
    places = tl.load(blocks + 2 * block + 1) + tl.arange(0, BLOCK_ROWS)
    start, height, width = tl.load(level), tl.load(level + 1), tl.load(level + 2)
    y, x = places // width, places % width
    outputs = tl.arange(0, 32)
    depth = tl.arange(0, BLOCK_CHANNELS)
    pixels += (image * num_rows + start) * C
    weight += outputs[None, :] * (9 * C) + depth[:, None]

    SPLITS: tl.constexpr = C // BLOCK_CHANNELS
    sums = tl.zeros((BLOCK_ROWS, 32), tl.float32)
    for step in tl.range(0, 9 * SPLITS, num_stages=STAGES):
        tap = step // SPLITS
        tap_y, tap_x = y + tap // 3 - 1, x + tap % 3 - 1
        inside = (tap_y >= 0) & (tap_y < height) & (tap_x >= 0) & (tap_x < width)
        source = (tap_y * width + tap_x)[:, None] * C + (step % SPLITS) * BLOCK_CHANNELS + depth[None, :]
        taken = tl.load(pixels + source, mask=inside[:, None], other=0.0)
        sums = tl.dot(as_operand(taken, DOT), tl.load(weight + step * BLOCK_CHANNELS), sums, input_precision=DOT)

    sums += tl.load(bias + outputs)[None, :]
    sums = tl.where((outputs >= 18)[None, :], tl.sigmoid(sums), sums)
    count = height * width
    target = out + (image * num_rows + start) * 27 + outputs[None, :] * count + places[:, None]
    tl.store(target, sums, mask=(places < count)[:, None] & (outputs < 27)[None, :])


def offset_conv(
    pixels: Tensor,
    weight: Tensor,
    bias: Tensor,
    levels: Tensor,
    blocks: Tensor,
    *,
    dot: str = "tf32",
) -> Tensor:
    """Offsets and masks of every level, float32.

    Args:
        pixels: (B, N, C), the levels of an image one after the other, channels last.
        weight: (32, 9 * C) of the type of the pixels, taps outermost, rows from 27 on zero; bias: (32,) float32.
        levels: (L, 8) int32 that begin with first row, height, width.
        blocks: (number, 2) int32, see `block_table`, for BLOCK_ROWS.
        dot: input precision of float32 products.

    Returns: (B, 27 * N): level l begins at number 27 * start_l with its offsets (18, H_l, W_l), (dy, dx) per tap, and
        goes on with its masks (9, H_l, W_l), which are sigmoids.
    """
    batch, rows, channels = pixels.shape
    out = pixels.new_empty(batch, OUTPUTS * rows, dtype=torch.float32)
    _offset_conv_kernel[(batch * len(blocks),)](
        pixels,
        weight,
        bias,
        out,
        levels,
        blocks,
        len(blocks),
        rows,
        C=channels,
        BLOCK_ROWS=BLOCK_ROWS,
        BLOCK_CHANNELS=min(64 if pixels.dtype.itemsize == 2 else 32, channels),
        STAGES=4,
        DOT=dot,
        num_warps=4,
    )
    return out
