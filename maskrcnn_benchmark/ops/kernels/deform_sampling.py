"""Bilinear samples of channels-last rows inside Triton kernels, in float32 whatever the rows are."""

from __future__ import annotations

from .triton_support import jit, tl


@jit
def strip_position(index: tl.tensor, height: tl.tensor, width: tl.tensor) -> tuple[tl.tensor, ...]:
    """(y, x) of the location with that index when a map is walked in vertical strips, each row by row.

    Blocks of consecutive locations are then compact, and so are the pixels that they sample.
    """
    STRIP: tl.constexpr = 16
    strip = index // (STRIP * height)
    rest = index - strip * (STRIP * height)
    strip_width = tl.maximum(tl.minimum(width - strip * STRIP, STRIP), 1)
    y = rest // strip_width
    return y, strip * STRIP + rest - y * strip_width


@jit
def load_offsets(
    offsets: tl.tensor,
    masks: tl.tensor,
    places: tl.tensor,
    used: tl.tensor,
    tap: tl.tensor,
    count: tl.tensor,
    HAS_MASK: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """Offsets (dy, dx) and mask of one tap in float32, 0 for places that are not used."""
    dy = tl.load(offsets + 2 * tap * count + places, mask=used, other=0.0).to(tl.float32)
    dx = tl.load(offsets + (2 * tap + 1) * count + places, mask=used, other=0.0).to(tl.float32)
    if HAS_MASK:
        share = tl.load(masks + tap * count + places, mask=used, other=0.0).to(tl.float32)
    else:
        share = tl.where(used, 1.0, 0.0)
    return dy, dx, share


@jit
def sample_points(
    dy: tl.tensor,
    dx: tl.tensor,
    share: tl.tensor,
    tap: tl.tensor,
    first_y: tl.tensor,
    first_x: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    TAPS_X: tl.constexpr,
    DILATION: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """Pixels around the sampling positions of one tap, as four row numbers, and their four weights, mask included."""
    y = (first_y + (tap // TAPS_X) * DILATION).to(tl.float32) + dy
    x = (first_x + (tap % TAPS_X) * DILATION).to(tl.float32) + dx
    inside = (y > -1) & (y < height) & (x > -1) & (x < width)  # false for NaN
    y, x = tl.where(inside, y, 0.0), tl.where(inside, x, 0.0)
    share = tl.where(inside, share, 0.0)
    top_edge, left_edge = tl.floor(y), tl.floor(x)
    down, right = y - top_edge, x - left_edge
    top, left = top_edge.to(tl.int32), left_edge.to(tl.int32)
    top_share = tl.where(top >= 0, 1.0 - down, 0.0) * share
    bottom_share = tl.where(top + 1 < height, down, 0.0) * share
    left_share = tl.where(left >= 0, 1.0 - right, 0.0)
    right_share = tl.where(left + 1 < width, right, 0.0)
    top_row = tl.maximum(top, 0) * width
    bottom_row = tl.minimum(top + 1, height - 1) * width
    left_column, right_column = tl.maximum(left, 0), tl.minimum(left + 1, width - 1)
    return (
        top_row + left_column,
        top_row + right_column,
        bottom_row + left_column,
        bottom_row + right_column,
        top_share * left_share,
        top_share * right_share,
        bottom_share * left_share,
        bottom_share * right_share,
    )


@jit
def _load_words(pointers: tl.tensor) -> tuple[tl.tensor, ...]:
    """16 bytes at each pointer, as four 32-bit words."""
    return tl.inline_asm_elementwise(
        "ld.global.v4.u32 {$0, $1, $2, $3}, [$4];",
        "=r,=r,=r,=r,l",
        [pointers],
        dtype=(tl.uint32, tl.uint32, tl.uint32, tl.uint32),
        is_pure=True,
        pack=1,
    )


@jit
def halves(word: tl.tensor, dtype: tl.constexpr) -> tuple[tl.tensor, ...]:
    """The two 16-bit numbers of a word in float32, lower half first."""
    if dtype == tl.bfloat16:
        low = (word << 16).to(tl.float32, bitcast=True)
        high = (word & 0xFFFF0000).to(tl.float32, bitcast=True)
    else:
        low = word.to(tl.uint16).to(dtype, bitcast=True).to(tl.float32)
        high = (word >> 16).to(tl.uint16).to(dtype, bitcast=True).to(tl.float32)
    return low, high


@jit
def _blend_words(
    a: tl.tensor,
    b: tl.tensor,
    c: tl.tensor,
    d: tl.tensor,
    wa: tl.tensor,
    wb: tl.tensor,
    wc: tl.tensor,
    wd: tl.tensor,
    dtype: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """Weighted sums of the lower and of the upper numbers of four words, in float32."""
    a_low, a_high = halves(a, dtype)
    b_low, b_high = halves(b, dtype)
    c_low, c_high = halves(c, dtype)
    d_low, d_high = halves(d, dtype)
    low = a_low * wa + b_low * wb + c_low * wc + d_low * wd
    high = a_high * wa + b_high * wb + c_high * wc + d_high * wd
    return low, high


@jit
def _blend_floats(
    a: tl.tensor, b: tl.tensor, c: tl.tensor, d: tl.tensor, wa: tl.tensor, wb: tl.tensor, wc: tl.tensor, wd: tl.tensor
) -> tl.tensor:
    """Weighted sums of four words that hold one float32 each."""
    return (
        a.to(tl.float32, bitcast=True) * wa
        + b.to(tl.float32, bitcast=True) * wb
        + c.to(tl.float32, bitcast=True) * wc
        + d.to(tl.float32, bitcast=True) * wd
    )


@jit
def _join_four(first: tl.tensor, second: tl.tensor, third: tl.tensor, fourth: tl.tensor) -> tl.tensor:
    """(..., 2, 2): the four side by side."""
    return tl.join(tl.join(first, third), tl.join(second, fourth))


@jit
def gather_samples(
    pixels: tl.tensor,
    index_a: tl.tensor,
    index_b: tl.tensor,
    index_c: tl.tensor,
    index_d: tl.tensor,
    wa: tl.tensor,
    wb: tl.tensor,
    wc: tl.tensor,
    wd: tl.tensor,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    DIRECT: tl.constexpr,
) -> tl.tensor:
    """Interpolated channels (ROWS, WIDTH) in float32, from the four rows and weights of `sample_points`.

    `pixels` points at the first of the channels in row 0; rows have C channels.
    """
    if DIRECT:
        dtype: tl.constexpr = pixels.dtype.element_ty
        per_load: tl.constexpr = 128 // dtype.primitive_bitwidth
        columns = (tl.arange(0, WIDTH // per_load) * per_load)[None, :]
        a0, a1, a2, a3 = _load_words(pixels + (index_a * C)[:, None] + columns)
        b0, b1, b2, b3 = _load_words(pixels + (index_b * C)[:, None] + columns)
        c0, c1, c2, c3 = _load_words(pixels + (index_c * C)[:, None] + columns)
        d0, d1, d2, d3 = _load_words(pixels + (index_d * C)[:, None] + columns)
        wa, wb, wc, wd = wa[:, None], wb[:, None], wc[:, None], wd[:, None]
        if per_load == 8:
            low0, high0 = _blend_words(a0, b0, c0, d0, wa, wb, wc, wd, dtype)
            low1, high1 = _blend_words(a1, b1, c1, d1, wa, wb, wc, wd, dtype)
            low2, high2 = _blend_words(a2, b2, c2, d2, wa, wb, wc, wd, dtype)
            low3, high3 = _blend_words(a3, b3, c3, d3, wa, wb, wc, wd, dtype)
            samples = tl.join(_join_four(low0, low1, low2, low3), _join_four(high0, high1, high2, high3))
        else:
            samples = _join_four(
                _blend_floats(a0, b0, c0, d0, wa, wb, wc, wd),
                _blend_floats(a1, b1, c1, d1, wa, wb, wc, wd),
                _blend_floats(a2, b2, c2, d2, wa, wb, wc, wd),
                _blend_floats(a3, b3, c3, d3, wa, wb, wc, wd),
            )
        samples = tl.reshape(samples, (ROWS, WIDTH))
    else:
        columns = tl.arange(0, WIDTH)[None, :]
        samples = tl.load(pixels + (index_a * C)[:, None] + columns).to(tl.float32) * wa[:, None]
        samples += tl.load(pixels + (index_b * C)[:, None] + columns).to(tl.float32) * wb[:, None]
        samples += tl.load(pixels + (index_c * C)[:, None] + columns).to(tl.float32) * wc[:, None]
        samples += tl.load(pixels + (index_d * C)[:, None] + columns).to(tl.float32) * wd[:, None]
    return samples
