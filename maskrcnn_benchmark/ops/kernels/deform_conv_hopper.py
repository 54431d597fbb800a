"""The deformable convolution of `deform_conv` for GPUs with asynchronous matrix units (compute capability 9).

While the matrix units work on one step (a tap and 64 channels), the same warps gather and interpolate the samples of
the next one, and the weights of the one after that are on their way into shared memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .deform_sampling import halves, load_offsets, sample_points, strip_position
from .triton_support import triton

try:
    from triton.experimental import gluon
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon.language.nvidia import hopper
except ImportError:  # Triton is missing or older
    gluon = gl = hopper = None

CHANNELS = 256  # of input and output


def _jit(function: Any, sizes: Sequence[str] = ()) -> Any:
    """Compiled by Gluon, once for all values of the integers `sizes`; also takes Triton's functions."""
    if gluon is None or triton.knobs.runtime.interpret:
        return function
    return gluon.jit(getattr(function, "fn", function), do_not_specialize=sizes)


_load_offsets = _jit(load_offsets)
_sample_points = _jit(sample_points)
_strip_position = _jit(strip_position)
_halves = _jit(halves)


@_jit
def _load_corners(
    pixels: gl.tensor,
    columns: gl.tensor,
    index_a: gl.tensor,
    index_b: gl.tensor,
    index_c: gl.tensor,
    index_d: gl.tensor,
    WORDS: gl.constexpr,
) -> tuple[gl.tensor, ...]:
    """The words at `columns` of four rows of `WORDS` words each."""
    a = gl.load(pixels + (gl.expand_dims(index_a * WORDS, 1) + columns))
    b = gl.load(pixels + (gl.expand_dims(index_b * WORDS, 1) + columns))
    c = gl.load(pixels + (gl.expand_dims(index_c * WORDS, 1) + columns))
    d = gl.load(pixels + (gl.expand_dims(index_d * WORDS, 1) + columns))
    return a, b, c, d


@_jit
def _blend(
    a: gl.tensor,
    b: gl.tensor,
    c: gl.tensor,
    d: gl.tensor,
    wa: gl.tensor,
    wb: gl.tensor,
    wc: gl.tensor,
    wd: gl.tensor,
    dtype: gl.constexpr,
    ROWS: gl.constexpr,
    STEP: gl.constexpr,
) -> gl.tensor:
    """Weighted sums (ROWS, STEP) of four blocks of words that hold two 16-bit numbers each, computed in float32."""
    a_low, a_high = _halves(a, dtype)
    b_low, b_high = _halves(b, dtype)
    c_low, c_high = _halves(c, dtype)
    d_low, d_high = _halves(d, dtype)
    wa, wb, wc, wd = gl.expand_dims(wa, 1), gl.expand_dims(wb, 1), gl.expand_dims(wc, 1), gl.expand_dims(wd, 1)
    low = a_low * wa + b_low * wb + c_low * wc + d_low * wd
    high = a_high * wa + b_high * wb + c_high * wc + d_high * wd
    return gl.reshape(gl.join(low, high), (ROWS, STEP)).to(dtype)


@partial(_jit, sizes=("num_blocks", "offset_stride", "mask_stride"))
def _deform_conv_kernel(
    pixels: gl.tensor,
    offsets: gl.tensor,
    masks: gl.tensor,
    weight: gl.tensor,
    bias: gl.tensor,
    shares: gl.tensor,
    out: gl.tensor,
    partials: gl.tensor,
    tasks: gl.tensor,
    blocks: gl.tensor,
    num_blocks: int,
    pixel_stride: int,
    offset_stride: int,
    mask_stride: int,
    out_stride: int,
    TAPS: gl.constexpr,
    TAPS_X: gl.constexpr,
    PADDING: gl.constexpr,
    DILATION: gl.constexpr,
    HAS_MASK: gl.constexpr,
    HAS_BIAS: gl.constexpr,
    HAS_PARTIALS: gl.constexpr,
    ROWS: gl.constexpr,
    num_warps: gl.constexpr,
) -> None:
    C: gl.constexpr = 256
    OUT: gl.constexpr = 256
    STEP: gl.constexpr = 64  # 128 bytes, a line of the cache
    SPLITS: gl.constexpr = C // STEP
    dtype: gl.constexpr = pixels.dtype.element_ty
    row_warps: gl.constexpr = ROWS // 16 if num_warps > ROWS // 16 else num_warps
    column_warps: gl.constexpr = num_warps // row_warps
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [row_warps, column_warps], [16, OUT // column_warps, 16])
    tile: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [num_warps, 1], [1, 0])
    words: gl.constexpr = gl.BlockedLayout([1, 4], [4, 8], [num_warps, 1], [1, 0])  # a tile, two numbers in one
    rows_layout: gl.constexpr = gl.SliceLayout(1, words)
    shared: gl.constexpr = gl.NVMMASharedLayout(128, 16)

    block = gl.program_id(0) % num_blocks
    image = (gl.program_id(0) // num_blocks).to(gl.int64)
    task = tasks + gl.load(blocks + 2 * block) * 10
    first_place = gl.load(blocks + 2 * block + 1)
    height, width, out_start = gl.load(task + 1), gl.load(task + 2), gl.load(task + 3)
    out_height, out_width = gl.load(task + 4), gl.load(task + 5)
    stride, weight_index = gl.load(task + 6), gl.load(task + 7)
    count = out_height * out_width
    pixels = (pixels + image * pixel_stride + gl.load(task) * C).to(gl.pointer_type(gl.uint32), bitcast=True)
    offsets += image * offset_stride + gl.load(task + 8)
    masks += image * mask_stride + gl.load(task + 9)

    order = first_place + gl.arange(0, ROWS, rows_layout)
    used = order < count
    y, x = _strip_position(order, out_height, out_width)
    places = y * out_width + x
    first_y, first_x = y * stride - PADDING, x * stride - PADDING
    columns = gl.expand_dims(gl.arange(0, STEP // 2, gl.SliceLayout(0, words)), 0)
    depth = gl.expand_dims(gl.arange(0, STEP, gl.SliceLayout(0, tile)), 0)
    weight += weight_index * (OUT * TAPS * C)
    kernel_pointers = weight + (gl.expand_dims(gl.arange(0, OUT, gl.SliceLayout(1, tile)) * (TAPS * C), 1) + depth)

    samples = gl.allocate_shared_memory(dtype, [2, ROWS, STEP], shared)
    kernels = gl.allocate_shared_memory(dtype, [SPLITS, OUT, STEP], shared)
    for ahead in gl.static_range(2):
        hopper.async_copy.async_copy_global_to_shared(kernels.index(ahead), kernel_pointers + ahead * STEP)
        hopper.async_copy.commit_group()

    dy, dx, share = _load_offsets(offsets, masks, places, used, 0, count, HAS_MASK)
    index_a, index_b, index_c, index_d, wa, wb, wc, wd = _sample_points(
        dy, dx, share, 0, first_y, first_x, height, width, TAPS_X, DILATION
    )
    a, b, c, d = _load_corners(pixels, columns, index_a, index_b, index_c, index_d, C // 2)
    samples.index(0).store(_blend(a, b, c, d, wa, wb, wc, wd, dtype, ROWS, STEP))
    hopper.fence_async_shared()
    dy, dx, share = _load_offsets(offsets, masks, places, used, 1, count, HAS_MASK)

    sums = gl.zeros([ROWS, OUT], gl.float32, mma)
    for tap in range(TAPS):
        for part in gl.static_range(SPLITS):
            hopper.async_copy.wait_group(1)
            running = hopper.warpgroup_mma(
                samples.index(part % 2), kernels.index(part).permute((1, 0)), sums, is_async=True
            )
            if part == SPLITS - 1:
                index_a, index_b, index_c, index_d, wa, wb, wc, wd = _sample_points(
                    dy, dx, share, tap + 1, first_y, first_x, height, width, TAPS_X, DILATION
                )
                dy, dx, share = _load_offsets(offsets, masks, places, used & (tap + 2 < TAPS), tap + 2, count, HAS_MASK)
            first_word = (part + 1) % SPLITS * (STEP // 2)
            a, b, c, d = _load_corners(pixels + first_word, columns, index_a, index_b, index_c, index_d, C // 2)
            sums = hopper.warpgroup_mma_wait(1, deps=(running,))  # the step before: its samples and weights are free
            gl.thread_barrier()
            next_step = tap * SPLITS + part + 2
            hopper.async_copy.async_copy_global_to_shared(
                kernels.index((part + 2) % SPLITS), kernel_pointers + next_step * STEP, mask=next_step < TAPS * SPLITS
            )
            hopper.async_copy.commit_group()
            samples.index((part + 1) % 2).store(_blend(a, b, c, d, wa, wb, wc, wd, dtype, ROWS, STEP))
            hopper.fence_async_shared()
    sums = hopper.warpgroup_mma_wait(0, deps=(sums,))
    hopper.async_copy.wait_group(0)

    out_channels = gl.arange(0, OUT, gl.SliceLayout(0, mma))
    if HAS_BIAS:
        sums += gl.expand_dims(gl.load(bias + weight_index * OUT + out_channels), 0)
    if HAS_PARTIALS:
        sum_order = first_place + gl.arange(0, ROWS, gl.SliceLayout(1, mma))
        is_used = sum_order < count
        y, x = _strip_position(sum_order, out_height, out_width)
        weights = gl.load(shares + out_start + y * out_width + x, mask=is_used, other=0.0)
        partials += (image * num_blocks + block) * (3 * OUT)
        total = gl.sum(gl.where(gl.expand_dims(is_used, 1), sums, 0.0), 0)
        number = gl.minimum(count - first_place, ROWS).to(gl.float32)
        centred = gl.where(gl.expand_dims(is_used, 1), sums - gl.expand_dims(total / number, 0), 0.0)
        gl.store(partials + out_channels, total)
        gl.store(partials + OUT + out_channels, gl.sum(centred * centred, 0))
        gl.store(partials + 2 * OUT + out_channels, gl.sum(sums * gl.expand_dims(weights, 1), 0))
    store_layout: gl.constexpr = gl.BlockedLayout([1, 8], [1, 32], [num_warps, 1], [1, 0])
    order = first_place + gl.arange(0, ROWS, gl.SliceLayout(1, store_layout))
    y, x = _strip_position(order, out_height, out_width)
    rows = out_start + y * out_width + x
    channels = gl.arange(0, OUT, gl.SliceLayout(0, store_layout))
    target = out + image * out_stride + gl.expand_dims(rows * OUT, 1) + gl.expand_dims(channels, 0)
    finished = gl.convert_layout(sums.to(out.dtype.element_ty), store_layout)
    gl.store(target, finished, mask=gl.expand_dims(order < count, 1))


def fits_hopper(pixels: Tensor, weight: Tensor) -> bool:
    """Whether the kernel takes pixels (B, N, C) and weights (number, O, taps * C)."""
    if gluon is None or not pixels.is_cuda or pixels.dtype.itemsize != 2:
        return False
    is_wide = pixels.shape[2] == CHANNELS and weight.shape[1] == CHANNELS
    return is_wide and torch.cuda.get_device_capability(pixels.device)[0] == 9


def launch_hopper(
    grid: int, tensors: Sequence[Tensor | int | None], settings: dict[str, Any], block_rows: int, num_warps: int
) -> None:
    """The launch that `deform_conv_rows` describes, for inputs that fit."""
    _deform_conv_kernel[(grid,)](*tensors, **settings, ROWS=block_rows, num_warps=num_warps)
