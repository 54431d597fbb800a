"""Deformable convolution of channels-last rows: many calls in one launch, sampling fused with the matrix product.

A program makes a block of output locations: for every tap it gathers the four pixels around each sampling position,
interpolates them in float32 and multiplies the sampled block with the weights of the tap (arXiv:1811.11168). Nothing
of the size of the columns (locations x taps x channels) is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .deform_conv_hopper import fits_hopper, launch_hopper
from .deform_sampling import gather_samples, load_offsets, sample_points, strip_position
from .triton_support import as_operand, jit, jit_for_sizes, tl

TASK_FIELDS = 10


class ConvTask(NamedTuple):
    """One convolution of a launch. Starts count rows (locations) or numbers from the beginning of an image.

    Attributes:
        input_start, height, width: first row and size of the input map.
        out_start, out_height, out_width: the same of the output.
        stride: of both axes.
        weight: index of the weights.
        offset_start: first number of the offsets, stored (2 * taps, out_height * out_width).
        mask_start: first number of the mask, stored (taps, out_height * out_width).
    """

    input_start: int
    height: int
    width: int
    out_start: int
    out_height: int
    out_width: int
    stride: int
    weight: int
    offset_start: int
    mask_start: int


class Tuning(NamedTuple):
    """How a launch is cut.

    Attributes:
        block_rows: output locations of a program.
        block_channels: input channels of a step.
        chunk: input channels between two computations of the sampling positions.
        num_warps, num_stages: warps of a program, stages of its loop.
        is_direct: pixels are read by 16-byte instructions that the compiler does not move through shared memory.
        is_overlapped: `deform_conv_hopper` does the work where it can; block_rows and num_warps count.
    """

    block_rows: int
    block_channels: int
    chunk: int
    num_warps: int
    num_stages: int
    is_direct: bool = True
    is_overlapped: bool = False


TUNINGS = {
    torch.bfloat16: Tuning(64, 64, 64, 8, 1, True, True),
    torch.float16: Tuning(64, 64, 64, 8, 1, True, True),
    torch.float32: Tuning(128, 32, 64, 8, 2, True),
}


def block_table(counts: list[int], block_rows: int) -> list[tuple[int, int]]:
    """(task, first of its rows) of every block of rows; `counts` are the rows of the tasks."""
    return [(task, row) for task, count in enumerate(counts) for row in range(0, count, block_rows)]


def int_table(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Rows of numbers as the kernels read them."""
    return torch.tensor(rows, dtype=torch.int32).to(device)


@jit
def store_partial_sums(
    partials: tl.tensor, x: tl.tensor, shares: tl.tensor, used: tl.tensor, channels: tl.tensor, C: tl.constexpr
) -> None:
    """Of the rows of x (rows, channels) in use: sum, squared distance from their mean, sum weighted by `shares`."""
    total = tl.sum(tl.where(used[:, None], x, 0.0), 0)
    number = tl.sum(tl.where(used, 1.0, 0.0), 0)
    centred = tl.where(used[:, None], x - (total / number)[None, :], 0.0)
    tl.store(partials + channels, total)
    tl.store(partials + C + channels, tl.sum(centred * centred, 0))
    tl.store(partials + 2 * C + channels, tl.sum(tl.where(used[:, None], x * shares[:, None], 0.0), 0))


@jit_for_sizes("num_blocks", "offset_stride", "mask_stride")
def _deform_conv_kernel(
    pixels: tl.tensor,
    offsets: tl.tensor,
    masks: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    shares: tl.tensor,
    out: tl.tensor,
    partials: tl.tensor,
    tasks: tl.tensor,
    blocks: tl.tensor,
    num_blocks: int,
    pixel_stride: int,
    offset_stride: int,
    mask_stride: int,
    out_stride: int,
    C: tl.constexpr,
    OUT: tl.constexpr,
    TAPS: tl.constexpr,
    TAPS_X: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_PARTIALS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    CHUNK: tl.constexpr,
    STAGES: tl.constexpr,
    DOT: tl.constexpr,
    DIRECT: tl.constexpr,
) -> None:
    block = tl.program_id(0) % num_blocks
    image = (tl.program_id(0) // num_blocks).to(tl.int64)
    task = tasks + tl.load(blocks + 2 * block) * 10
    first_place = tl.load(blocks + 2 * block + 1)
    input_start, height, width = tl.load(task), tl.load(task + 1), tl.load(task + 2)
    out_start, out_height, out_width = tl.load(task + 3), tl.load(task + 4), tl.load(task + 5)
    stride, weight_index = tl.load(task + 6), tl.load(task + 7)
    offsets += image * offset_stride + tl.load(task + 8)
    masks += image * mask_stride + tl.load(task + 9)
    pixels += image * pixel_stride + input_start * C

    count = out_height * out_width
    order = first_place + tl.arange(0, BLOCK_ROWS)
    used = order < count
    y, x = strip_position(order, out_height, out_width)
    places = y * out_width + x
    first_y, first_x = y * stride - PADDING, x * stride - PADDING
    out_channels = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    depth = tl.arange(0, BLOCK_CHANNELS)
    weight += (weight_index * OUT + out_channels[None, :]) * (TAPS * C) + depth[:, None]

    SPLITS: tl.constexpr = C // CHUNK
    sums = tl.zeros((BLOCK_ROWS, BLOCK_OUT), tl.float32)
    for step in tl.range(0, TAPS * SPLITS, num_stages=STAGES):
        tap = step // SPLITS
        first_channel = (step % SPLITS) * CHUNK
        dy, dx, share = load_offsets(offsets, masks, places, used, tap, count, HAS_MASK)
        index_a, index_b, index_c, index_d, wa, wb, wc, wd = sample_points(
            dy, dx, share, tap, first_y, first_x, height, width, TAPS_X, DILATION
        )
        for part in tl.static_range(0, CHUNK, BLOCK_CHANNELS):
            kernel = tl.load(weight + tap * C + first_channel + part)
            samples = gather_samples(
                pixels + first_channel + part,
                index_a,
                index_b,
                index_c,
                index_d,
                wa,
                wb,
                wc,
                wd,
                C,
                BLOCK_ROWS,
                BLOCK_CHANNELS,
                DIRECT,
            )
            sums = tl.dot(as_operand(samples.to(kernel.dtype), DOT), kernel, sums, input_precision=DOT)

    if HAS_BIAS:
        sums += tl.load(bias + weight_index * OUT + out_channels)[None, :]
    out += image * out_stride + out_start * OUT
    tl.store(out + places[:, None] * OUT + out_channels[None, :], sums.to(out.dtype.element_ty), mask=used[:, None])
    if HAS_PARTIALS:
        weights = tl.load(shares + out_start + places, mask=used, other=0.0)
        partials += (image * num_blocks + block) * (3 * OUT)
        store_partial_sums(partials, sums, weights, used, out_channels, OUT)


def deform_conv_rows(
    pixels: Tensor,
    offsets: Tensor,
    masks: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    tasks: Tensor,
    blocks: Tensor,
    out: Tensor,
    *,
    tuning: Tuning,
    dot: str = "tf32",
    taps: tuple[int, int] = (3, 3),
    padding: int = 1,
    dilation: int = 1,
    shares: Tensor | None = None,
) -> Tensor | None:
    """Deformable convolutions of one launch, written into `out`.

    Args:
        pixels: (B, N, C), the maps of an image one after the other, channels last; C a power of 2.
        offsets, masks: (B, numbers), placed as the tasks say; without masks every tap counts fully.
        weight: (number, O, taps * C) of the type of the pixels; bias: (number, O) in float32.
        tasks: (number, TASK_FIELDS) int32 rows of `ConvTask`; blocks: (number, 2) int32, see `block_table`.
        out: (B, R, O).
        tuning, dot: how to compute; dot is the input precision of float32 products.
        shares: (R,) float32 weights of the outputs.

    Returns: with shares (B, number of blocks, 3, O) float32, see `store_partial_sums`, else None.
    """
    batch, _, channels = pixels.shape
    out_channels = weight.shape[1]
    partials = None if shares is None else pixels.new_empty(batch, len(blocks), 3, out_channels, dtype=torch.float32)
    tensors = (
        pixels,
        offsets,
        offsets if masks is None else masks,
        weight,
        bias,
        shares,
        out,
        partials,
        tasks,
        blocks,
        len(blocks),
        pixels.stride(0),
        offsets.stride(0),
        0 if masks is None else masks.stride(0),
        out.stride(0),
    )
    settings = {
        "TAPS": taps[0] * taps[1],
        "TAPS_X": taps[1],
        "PADDING": padding,
        "DILATION": dilation,
        "HAS_MASK": masks is not None,
        "HAS_BIAS": bias is not None,
        "HAS_PARTIALS": shares is not None,
    }
    if tuning.is_overlapped and fits_hopper(pixels, weight):
        launch_hopper(batch * len(blocks), tensors, settings, tuning.block_rows, tuning.num_warps)
        return partials
    block_channels, block_out = min(tuning.block_channels, channels), min(256, out_channels)
    _deform_conv_kernel[(batch * len(blocks), out_channels // block_out)](
        *tensors,
        **settings,
        C=channels,
        OUT=out_channels,
        BLOCK_ROWS=tuning.block_rows,
        BLOCK_OUT=block_out,
        BLOCK_CHANNELS=block_channels,
        CHUNK=max(block_channels, min(tuning.chunk, channels)),
        STAGES=tuning.num_stages,
        DOT=dot,
        DIRECT=tuning.is_direct and pixels.is_cuda,
        num_warps=tuning.num_warps,
    )
    return partials


def rows_of_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights (O, C, kh, kw) -> (O, kh * kw * C), taps outermost, as the kernels read them."""
    return weight.detach().permute(0, 2, 3, 1).flatten(1).to(dtype).contiguous()
