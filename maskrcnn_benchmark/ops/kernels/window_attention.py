"""Attention inside (shifted) windows of a map, read from and written to the tokens of the map where they lie.

No tensor of windows is built: every program finds the tokens of its windows by arithmetic. A token beyond the edge of
the map, which padding to whole windows adds, is a zero before the projection; its query, key and value are the bias
of the projection.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .triton_support import as_operand, jit, next_power_of_2, runs_kernels, tl, triton

SHIFT_MASK_VALUE = -100.0
LOG2_E = math.log2(math.e)


def window_attention_reference(
    qkv: Tensor, qkv_bias: Tensor, position_bias: Tensor, size: tuple[int, int], window: int, shift: int
) -> Tensor:
    """The definition of `window_attention`."""
    height, width = size
    heads = position_bias.shape[0]
    padded = (height + -height % window, width + -width % window)
    grid = (padded[0] // window, padded[1] // window)
    channels = qkv.shape[1] // 3
    x = qkv_bias.to(qkv.dtype).repeat(qkv.shape[0] // (height * width), *padded, 1)
    x[:, :height, :width] = qkv.view(-1, height, width, 3 * channels)
    x = x.roll((-shift, -shift), (1, 2)).view(-1, grid[0], window, grid[1], window, 3, heads, channels // heads)
    query, key, value = x.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(5, 6).unbind(0)  # (B, rows, columns, heads, n, d)
    y, x = (torch.arange(extent, device=qkv.device) for extent in padded)
    y, x = ((at >= extent - window).long() + (at >= extent - shift) for at, extent in ((y, padded[0]), (x, padded[1])))
    region = (3 * y[:, None] + x).view(grid[0], window, grid[1], window).transpose(1, 2).flatten(2)
    exact = torch.promote_types(qkv.dtype, torch.float32)
    mask = position_bias.to(exact).expand(*grid, -1, -1, -1)
    if shift:
        mask = mask + SHIFT_MASK_VALUE * (region[..., None] != region[..., None, :])[:, :, None]
    scores = query.to(exact) @ key.to(exact).transpose(-2, -1) * query.shape[-1] ** -0.5 + mask
    out = (scores.softmax(-1).to(qkv.dtype) @ value).unflatten(4, (window, window))
    out = out.permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, *padded, channels).roll((shift, shift), (1, 2))
    return out[:, :height, :width].reshape(-1, channels)


@jit
def _locate(
    position: tl.tensor,
    window_y: int,
    window_x: int,
    height: int,
    width: int,
    window: tl.constexpr,
    shift: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Positions in a window -> token of each in its map, whether it is on the map, region of the shifted map."""
    y = window_y * window + position // window
    x = window_x * window + position % window
    bottom, right = tl.cdiv(height, window) * window, tl.cdiv(width, window) * window
    region_y = (y >= bottom - window).to(tl.int32) + (y >= bottom - shift).to(tl.int32)
    region_x = (x >= right - window).to(tl.int32) + (x >= right - shift).to(tl.int32)
    y = tl.where(y + shift >= bottom, y + shift - bottom, y + shift)
    x = tl.where(x + shift >= right, x + shift - right, x + shift)
    is_inside = (position < window * window) & (y < height) & (x < width)
    return y * width + x, is_inside, 3 * region_y + region_x


@jit
def _load_position_bias(
    position_bias: tl.tensor, head: int, query: tl.tensor, key: tl.tensor, length: tl.constexpr
) -> tl.tensor:
    """(queries, keys) in units of log 2, minus infinity at keys that do not exist."""
    place = (head * length + query[:, None]) * length + key[None, :]
    bias = tl.load(position_bias + place, mask=(query < length)[:, None] & (key < length)[None, :], other=0.0)
    return tl.where((key < length)[None, :], bias * 1.4426950408889634, float("-inf"))


@jit
def _load_keys(
    qkv: tl.tensor,
    qkv_bias: tl.tensor,
    row: tl.tensor,
    is_inside: tl.tensor,
    columns: tl.tensor,
    channels: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Keys and values (positions, head width) of a head; off the map they are the bias."""
    place = row[:, None] * (3 * channels) + columns[None, :]
    key = tl.load(qkv + place + channels, mask=is_inside[:, None], other=0.0)
    value = tl.load(qkv + place + 2 * channels, mask=is_inside[:, None], other=0.0)
    key = tl.where(is_inside[:, None], key, tl.load(qkv_bias + channels + columns)[None, :])
    value = tl.where(is_inside[:, None], value, tl.load(qkv_bias + 2 * channels + columns)[None, :])
    return key, value


@jit
def _scores(
    query: tl.tensor,
    key: tl.tensor,
    bias: tl.tensor,
    query_region: tl.tensor,
    key_region: tl.tensor,
    scale: float,
    shift: tl.constexpr,
    dot: tl.constexpr,
) -> tl.tensor:
    """(queries, keys) float32 in units of log 2."""
    scores = tl.dot(as_operand(query, dot), tl.trans(as_operand(key, dot)), input_precision=dot) * scale + bias
    if shift:
        scores += tl.where(query_region[:, None] != key_region[None, :], -100.0 * 1.4426950408889634, 0.0)
    return scores


@jit
def _window_attention_kernel(
    qkv: tl.tensor,
    qkv_bias: tl.tensor,
    position_bias: tl.tensor,
    out: tl.tensor,
    windows: int,
    height: int,
    width: int,
    scale: float,
    channels: tl.constexpr,
    head_width: tl.constexpr,
    window: tl.constexpr,
    shift: tl.constexpr,
    query_block: tl.constexpr,
    key_block: tl.constexpr,
    rest_block: tl.constexpr,
    windows_per_program: tl.constexpr,
    dot: tl.constexpr,
) -> None:
    """One head, one block of queries, several windows; the position bias stays in registers.

    Keys come in one block, or in two whose sizes are powers of 2 (144 = 128 + 16).
    """
    length: tl.constexpr = window * window
    query_blocks: tl.constexpr = (length + query_block - 1) // query_block
    head = tl.program_id(0) // query_blocks
    query_position = tl.program_id(0) % query_blocks * query_block + tl.arange(0, query_block)
    key_position = tl.arange(0, key_block)
    columns = head * head_width + tl.arange(0, head_width)
    bias = _load_position_bias(position_bias, head, query_position, key_position, length)
    if rest_block:
        rest_position = key_block + tl.arange(0, rest_block)
        rest_bias = _load_position_bias(position_bias, head, query_position, rest_position, length)
    grid_height, grid_width = tl.cdiv(height, window), tl.cdiv(width, window)
    for step in range(windows_per_program):
        # A program with fewer windows left repeats the last one: the same numbers are stored again.
        index = tl.minimum(tl.program_id(1) * windows_per_program + step, windows - 1)
        window_y, window_x = index // grid_width % grid_height, index % grid_width
        first_token = (index // (grid_height * grid_width)).to(tl.int64) * height * width
        tokens = qkv + first_token * (3 * channels)
        row, is_inside, query_region = _locate(query_position, window_y, window_x, height, width, window, shift)
        query = tl.load(tokens + row[:, None] * (3 * channels) + columns[None, :], mask=is_inside[:, None], other=0.0)
        key_row, is_key_inside, key_region = _locate(key_position, window_y, window_x, height, width, window, shift)
        key, value = _load_keys(tokens, qkv_bias, key_row, is_key_inside, columns, channels)
        scores = _scores(query, key, bias, query_region, key_region, scale, shift, dot)
        largest = tl.max(scores, 1)
        if rest_block:
            rest_row, is_rest_inside, rest_region = _locate(
                rest_position, window_y, window_x, height, width, window, shift
            )
            rest_key, rest_value = _load_keys(tokens, qkv_bias, rest_row, is_rest_inside, columns, channels)
            rest_scores = _scores(query, rest_key, rest_bias, query_region, rest_region, scale, shift, dot)
            largest = tl.maximum(largest, tl.max(rest_scores, 1))
        weights = tl.exp2(scores - largest[:, None])
        total = tl.sum(weights, 1)
        result = tl.dot(as_operand(weights.to(value.dtype), dot), as_operand(value, dot), input_precision=dot)
        if rest_block:
            rest_weights = tl.exp2(rest_scores - largest[:, None])
            total += tl.sum(rest_weights, 1)
            rest_operand = as_operand(rest_weights.to(value.dtype), dot)
            result = tl.dot(rest_operand, as_operand(rest_value, dot), result, input_precision=dot)
        result = result / total[:, None]
        place = first_token * channels + row[:, None] * channels + columns[None, :]
        tl.store(out + place, result.to(out.dtype.element_ty), mask=is_inside[:, None])


class Tiling(NamedTuple):
    """How the work is cut: queries and windows of one program, its warps, depth of the software pipeline."""

    query_block: int
    windows: int
    num_warps: int
    num_stages: int


def find_tiling(length: int, dtype: torch.dtype) -> Tiling:
    """The measured choice for windows of `length` tokens: float32 products leave registers for one window only."""
    block = min(64, max(16, next_power_of_2(length)))
    if dtype == torch.float32:
        return Tiling(min(block, 64 if length <= 64 else 32), 1, 8, 1)
    return Tiling(block, 4, 4, 2) if length <= 64 else Tiling(block, 1, 8, 1)


def key_blocks(length: int) -> tuple[int, int]:
    """Sizes, powers of 2 and at least 16, of the one or two blocks that hold `length` keys with least padding."""
    whole = max(16, next_power_of_2(length))
    half = whole // 2
    rest = max(16, next_power_of_2(max(1, length - half)))
    return (half, rest) if half >= 16 and half + rest < whole else (whole, 0)


def window_attention(
    qkv: Tensor,
    qkv_bias: Tensor,
    position_bias: Tensor,
    size: tuple[int, int],
    window: int,
    shift: int,
    *,
    dot: str = "ieee",
    tiling: Tiling | None = None,
) -> Tensor:
    """Multi-head attention inside windows of `window` x `window` tokens (arXiv:2103.14030, section 3.2).

    Scores and softmax are float32. Pairs that only the cyclic shift made neighbours get -100.

    Args:
        qkv: (B * H * W, 3 C) query, key and value of all heads side by side, contiguous.
        qkv_bias: (3 C,) in the type of qkv: query, key and value of a token that is zero.
        position_bias: (heads, window^2, window^2) float32.
        size: (H, W).
        shift: how far the windows are moved up and left, less than the window.
        dot: how float32 operands are multiplied, "ieee" or "tf32".
        tiling: None takes that of `find_tiling`.
    Returns: (B * H * W, C) contiguous, in the type of qkv.
    """
    if not runs_kernels(qkv):
        return window_attention_reference(qkv, qkv_bias, position_bias, size, window, shift)
    (height, width), heads = size, position_bias.shape[0]
    channels = qkv.shape[1] // 3
    windows = qkv.shape[0] // (height * width) * triton.cdiv(height, window) * triton.cdiv(width, window)
    out = torch.empty(qkv.shape[0], channels, dtype=qkv.dtype, device=qkv.device)
    length, head_width = window * window, channels // heads
    key_block, rest_block = key_blocks(length)
    tiling = tiling or find_tiling(length, qkv.dtype)
    programs = (heads * triton.cdiv(length, tiling.query_block), triton.cdiv(windows, tiling.windows))
    _window_attention_kernel[programs](
        qkv,
        qkv_bias,
        position_bias,
        out,
        windows,
        height,
        width,
        head_width**-0.5 * LOG2_E,
        channels,
        head_width,
        window,
        shift,
        tiling.query_block,
        key_block,
        rest_block,
        tiling.windows,
        dot,
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
    )
    return out
