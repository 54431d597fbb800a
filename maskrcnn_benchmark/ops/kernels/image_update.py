"""Deep fusion, from words to locations: every location reads the words with all heads (arXiv:2112.03857, 3.2).

The outputs of all heads are added up in one accumulator, which an online softmax cannot rescale for one head alone.
So a first kernel finds the normaliser of every location and head, and the second one weighs and adds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .folded_words import FoldedWords, Limits, can_run_kernels, limit_scores, similarities
from .triton_support import jit, jit_for_sizes, tl, triton


class Tiling(NamedTuple):
    """Size of the tile of one program, at most 64 words wide, and how many warps and pipeline stages it has."""

    locations: int
    words: int
    warps: int
    stages: int


class ImageTilings(NamedTuple):
    """Tilings of the kernels that find normalisers and that add."""

    normalisers: Tiling
    update: Tiling


HALF = ImageTilings(Tiling(64, 64, 4, 2), Tiling(128, 64, 8, 2))
SINGLE = ImageTilings(Tiling(64, 32, 4, 2), Tiling(64, 32, 8, 2))


def image_update_reference(
    visual: Tensor, words: FoldedWords, bias: Tensor, limits: Limits, residual: Tensor | None = None
) -> Tensor:
    """The definition of `image_update`."""
    residual = visual if residual is None else residual
    out = torch.empty_like(residual)
    is_word = ~words.offsets[:, :, : words.num_words].isneginf()
    for image in range(len(visual)):
        logits = similarities(visual, words, image, limits).masked_fill(~is_word[image], float("-inf"))
        weights = logits.softmax(-1).nan_to_num(0.0).to(visual.dtype)  # (N, M, T)
        values = words.keys_and_values[image, :, 1].transpose(0, 1).flatten(0, 1)  # (M T, C)
        out[image] = (weights.flatten(1) @ values + residual[image] + bias).to(out.dtype)
    return out


@jit_for_sizes("locations", "words")
def _normalisers_kernel(
    visual: tl.tensor,
    keys: tl.tensor,
    offsets: tl.tensor,
    normalisers: tl.tensor,
    locations: int,
    words: int,
    padded: int,
    heads: tl.constexpr,
    channels: tl.constexpr,
    block: tl.constexpr,
    word_block: tl.constexpr,
    clamp_min: tl.constexpr,
    clamp_max: tl.constexpr,
    dot: tl.constexpr,
) -> None:
    """Logarithm of the sum of exponentials over the words, for each location and head.

    The columns of all heads lie one after the other, so a block may hold the end of one and the start of the next.
    """
    image = tl.program_id(1).to(tl.int64)
    location = tl.program_id(0) * block + tl.arange(0, block)
    is_location = location < locations
    channel = tl.arange(0, channels)
    visual_block = tl.load(
        visual + image * locations * channels + location[:, None] * channels + channel[None, :],
        mask=is_location[:, None],
        other=0.0,
    )
    keys += image * words * (2 * heads * channels)
    offsets += image * heads * padded
    normalisers += image * heads * locations
    largest = tl.full((block,), -1e30, tl.float32)
    total = tl.zeros((block,), tl.float32)
    columns = heads * padded
    for start in range(0, columns, word_block):
        column = start + tl.arange(0, word_block)
        head = start // padded
        boundary = (head + 1) * padded
        word, word_head = locate_words(column, head, boundary, padded, words, heads)
        place = word * (2 * heads * channels) + word_head * channels
        key_block = tl.load(keys + place[:, None] + channel[None, :])
        offset = tl.load(offsets + column, mask=column < columns, other=float("-inf"))
        scores = tl.dot(visual_block, tl.trans(key_block), input_precision=dot) + offset[None, :]
        scores = limit_scores(scores, clamp_min, clamp_max)
        is_word = offset > float("-inf")
        here = tl.where((is_word & (column < boundary))[None, :], scores, float("-inf"))
        raised = tl.maximum(largest, tl.max(here, 1))
        total = total * tl.exp2(largest - raised) + tl.sum(tl.exp2(here - raised[:, None]), 1)
        largest = raised
        if start + word_block >= boundary:
            result = tl.where(total > 0.0, largest + tl.log2(total), float("inf"))
            tl.store(normalisers + head * locations + location, result, mask=is_location)
            beyond = tl.where((is_word & (column >= boundary))[None, :], scores, float("-inf"))
            largest = tl.maximum(tl.max(beyond, 1), -1e30)
            total = tl.sum(tl.exp2(beyond - largest[:, None]), 1)


@jit
def locate_words(
    column: tl.tensor, head: tl.tensor, boundary: tl.tensor, padded: int, words: int, heads: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Word and head of columns of which the first belongs to `head`, whose columns end at `boundary`.

    Columns of padding get the last word and those behind the last head that head: they are read, never used.
    """
    is_next = column >= boundary
    word = tl.where(is_next, column - boundary, column - boundary + padded)
    return tl.minimum(word, words - 1), tl.minimum(head + is_next.to(tl.int32), heads - 1)


@jit_for_sizes("locations", "words")
def _image_update_kernel(
    visual: tl.tensor,
    keys: tl.tensor,
    offsets: tl.tensor,
    normalisers: tl.tensor,
    locations: int,
    words: int,
    padded: int,
    bias: tl.tensor,
    residual: tl.tensor,
    out: tl.tensor,
    heads: tl.constexpr,
    channels: tl.constexpr,
    dot: tl.constexpr,
    clamp_min: tl.constexpr,
    clamp_max: tl.constexpr,
    block: tl.constexpr,
    word_block: tl.constexpr,
) -> None:
    channel = tl.arange(0, channels)
    image = tl.program_id(1).to(tl.int64)
    location = tl.program_id(0) * block + tl.arange(0, block)
    is_location = location < locations
    visual += image * locations * channels
    place = location[:, None] * channels + channel[None, :]
    visual_block = tl.load(visual + place, mask=is_location[:, None], other=0.0)
    keys += image * words * (2 * heads * channels)
    offsets += image * heads * padded
    normalisers += image * heads * locations + tl.minimum(location, locations - 1)
    update = tl.zeros((block, channels), tl.float32)
    columns = heads * padded
    for start in range(0, columns, word_block):
        column = start + tl.arange(0, word_block)
        head = start // padded
        boundary = (head + 1) * padded
        word, word_head = locate_words(column, head, boundary, padded, words, heads)
        row = (word * (2 * heads * channels) + word_head * channels)[:, None] + channel[None, :]
        key_block = tl.load(keys + row)
        value_block = tl.load(keys + row + heads * channels)
        offset = tl.load(offsets + column, mask=column < columns, other=float("-inf"))
        scores = tl.dot(visual_block, tl.trans(key_block), input_precision=dot) + offset[None, :]
        scores = limit_scores(scores, clamp_min, clamp_max)
        if clamp_min:  # which has brought padding back
            scores = tl.where((offset > float("-inf"))[None, :], scores, float("-inf"))
        here = tl.load(normalisers + head * locations)
        beyond = tl.load(normalisers + tl.minimum(head + 1, heads - 1) * locations)
        weights = tl.exp2(scores - tl.where((column < boundary)[None, :], here[:, None], beyond[:, None]))
        update = tl.dot(weights.to(value_block.dtype), value_block, update, input_precision=dot)
    # Read again, with a hint that makes it another load: kept in registers it would crowd out the accumulator.
    residual += image * locations * channels
    before = tl.load(residual + place, mask=is_location[:, None], other=0.0, eviction_policy="evict_first")
    update += before.to(tl.float32) + tl.load(bias + channel)[None, :]
    target = out + image * locations * channels + place
    tl.store(target, update.to(out.dtype.element_ty), mask=is_location[:, None])


def image_update(
    visual: Tensor,
    words: FoldedWords,
    bias: Tensor,
    limits: Limits,
    *,
    residual: Tensor | None = None,
    dot: str = "ieee",
    tilings: ImageTilings | None = None,
) -> Tensor:
    """visual + bias + sum over heads of softmax over words(visual keys + offsets) values.

    Similarities, softmax and sums are float32, the weights of the words have the type of the values. An image whose
    words are all padding gets the bias alone.

    Args:
        visual: (B, N, C) contiguous.
        words: of the same B, M heads and C.
        bias: (C,) float32.
        limits: of the similarities.
        residual: what the update is added to and gives the result its type, visual if None.
        dot: how float32 operands are multiplied, "ieee" or "tf32".
        tilings: by default those measured best for the type.
    Returns: (B, N, C) contiguous, in the type of the residual.
    """
    if not can_run_kernels(visual, dot, visual.shape[-1]):
        return image_update_reference(visual, words, bias, limits, residual)
    residual = visual if residual is None else residual
    batch, locations, channels = visual.shape
    heads, padded = words.offsets.shape[1:]
    if tilings is None:
        tilings = SINGLE if visual.dtype == torch.float32 else HALF
    normalisers = torch.empty(batch, heads, locations, dtype=torch.float32, device=visual.device)
    sizes = (locations, words.num_words, padded, heads, channels)
    flags = {"clamp_min": limits.clamp_min, "clamp_max": limits.clamp_max, "dot": dot}
    tile = tilings.normalisers
    _normalisers_kernel[(triton.cdiv(locations, tile.locations), batch)](
        visual, words.keys_and_values, words.offsets, normalisers, *sizes, tile.locations, tile.words, **flags,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    out = torch.empty_like(residual)
    tile = tilings.update
    _image_update_kernel[(triton.cdiv(locations, tile.locations), batch)](
        visual, words.keys_and_values, words.offsets, normalisers, *sizes[:3], bias, residual, out, *sizes[3:],
        block=tile.locations,
        word_block=tile.words, **flags, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out
