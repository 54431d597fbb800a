"""Sampled inputs of deformable convolutions, stored for the matrix library (exact float32 is slow in Triton)."""

from __future__ import annotations

from torch import Tensor

from .deform_sampling import gather_samples, load_offsets, sample_points
from .triton_support import jit_for_sizes, tl

COLUMN_ROWS = 16  # of a program


@jit_for_sizes("num_blocks", "offset_stride", "out_rows")
def _columns_kernel(
    pixels: tl.tensor,
    offsets: tl.tensor,
    out: tl.tensor,
    tasks: tl.tensor,
    blocks: tl.tensor,
    num_blocks: int,
    pixel_stride: int,
    offset_stride: int,
    out_rows: int,
    C: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
) -> None:
    """The sampled columns (images, out_rows, 9, C) of 3x3 convolutions with padding 1: one tap of a part of a block."""
    block = tl.program_id(0) % num_blocks
    image = (tl.program_id(0) // num_blocks).to(tl.int64)
    tap = tl.program_id(1)
    task = tasks + tl.load(blocks + 2 * block) * 10
    first_place = tl.load(blocks + 2 * block + 1)
    height, width, out_start = tl.load(task + 1), tl.load(task + 2), tl.load(task + 3)
    out_width, stride = tl.load(task + 5), tl.load(task + 6)
    count = tl.load(task + 4) * out_width
    offsets += image * offset_stride
    pixels += image * pixel_stride + tl.load(task) * C
    places = first_place + tl.program_id(2) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    used = places < count
    dy, dx, share = load_offsets(
        offsets + tl.load(task + 8), offsets + tl.load(task + 9), places, used, tap, count, True
    )
    first_y, first_x = (places // out_width) * stride - 1, (places % out_width) * stride - 1
    index_a, index_b, index_c, index_d, wa, wb, wc, wd = sample_points(
        dy, dx, share, tap, first_y, first_x, height, width, 3, 1
    )
    samples = gather_samples(pixels, index_a, index_b, index_c, index_d, wa, wb, wc, wd, C, BLOCK_ROWS, C, False)
    row = image * out_rows + out_start + places
    target = out + ((row * 9 + tap) * C)[:, None] + tl.arange(0, C)[None, :]
    tl.store(target, samples.to(out.dtype.element_ty), mask=used[:, None])


def deform_columns(
    pixels: Tensor, offsets: Tensor, tasks: Tensor, blocks: Tensor, block_rows: int, rows: int
) -> Tensor:
    """Sampled inputs of modulated 3x3 convolutions with padding 1: (B, rows, 9 * C), taps outermost.

    Args: as `deform_conv_rows`; block_rows: what `blocks` was made for; rows: outputs of all tasks of an image.
    """
    batch, _, channels = pixels.shape
    columns = pixels.new_empty(batch, rows, 9 * channels)
    _columns_kernel[(batch * len(blocks), 9, block_rows // COLUMN_ROWS)](
        pixels,
        offsets,
        columns,
        tasks,
        blocks,
        len(blocks),
        pixels.stride(0),
        offsets.stride(0),
        rows,
        channels,
        COLUMN_ROWS,
    )
    return columns
