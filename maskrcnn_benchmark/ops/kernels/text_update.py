"""Deep fusion, from locations to words: every word pools the locations with every head (arXiv:2112.03857, 3.2).

Flash attention (arXiv:2205.14135) whose keys and values are one tensor, the locations, so that each tile is read once;
the locations are split among programs and the partial results combined.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from .folded_words import FoldedWords, Limits, can_run_kernels, limit_scores, similarities
from .triton_support import jit_for_sizes, tl, triton

MOST_SPLITS = 16
COMBINED_ROWS = 16


class TextTiling(NamedTuple):
    """Rows (words of heads) and locations of a tile, warps and pipeline stages; splits of the locations, 0 = chosen."""

    rows: int
    locations: int
    warps: int
    stages: int
    splits: int = 0


HALF = TextTiling(128, 64, 8, 2)
SINGLE = TextTiling(64, 32, 8, 2)


def pool_locations_reference(visual: Tensor, words: FoldedWords, limits: Limits) -> Tensor:
    """The definition of `pool_locations`."""
    heads = words.offsets.shape[1]
    pooled = visual.new_empty(len(visual), words.num_words, heads, visual.shape[-1])
    is_word = ~words.offsets[:, :, : words.num_words].isneginf()
    for image in range(len(visual)):
        logits = similarities(visual, words, image, limits).flatten(1).t()  # (M T, N)
        weights = logits.softmax(-1).to(visual.dtype)
        heads_first = (weights @ visual[image]).unflatten(0, (heads, -1)) * is_word[image, :, :, None]
        pooled[image] = heads_first.transpose(0, 1)
    return pooled.flatten(2)


@jit_for_sizes("locations", "words")
def _pool_kernel(
    visual: tl.tensor,
    keys: tl.tensor,
    offsets: tl.tensor,
    sums: tl.tensor,
    largest_scores: tl.tensor,
    totals: tl.tensor,
    locations: int,
    words: int,
    padded: int,
    split_length: int,
    heads: tl.constexpr,
    channels: tl.constexpr,
    block: tl.constexpr,
    location_block: tl.constexpr,
    clamp_min: tl.constexpr,
    clamp_max: tl.constexpr,
    dot: tl.constexpr,
) -> None:
    """Weighted sums of one part of the locations, with the largest score and the total weight of every row."""
    image = tl.program_id(2).to(tl.int64)
    rows = heads * padded
    row = tl.program_id(0) * block + tl.arange(0, block)
    offset = tl.load(offsets + image * rows + row, mask=row < rows, other=float("-inf"))
    is_word = offset > float("-inf")
    if tl.max(is_word.to(tl.int32), 0) > 0:
        offset = tl.where(is_word, offset, 0.0)
        channel = tl.arange(0, channels)
        word = tl.minimum(row % padded, words - 1)
        place = word * (2 * heads * channels) + tl.minimum(row // padded, heads - 1) * channels
        keys += image * words * (2 * heads * channels)
        key_block = tl.load(keys + place[:, None] + channel[None, :])
        visual += image * locations * channels
        begin = tl.program_id(1) * split_length
        end = tl.minimum(begin + split_length, locations)
        largest = tl.full((block,), -1e30, tl.float32)
        total = tl.zeros((block,), tl.float32)
        pooled = tl.zeros((block, channels), tl.float32)
        for start in range(begin, end, location_block):
            location = start + tl.arange(0, location_block)
            source = tl.minimum(location, locations - 1)
            visual_block = tl.load(visual + source[:, None] * channels + channel[None, :])
            scores = tl.dot(key_block, tl.trans(visual_block), input_precision=dot) + offset[:, None]
            scores = limit_scores(scores, clamp_min, clamp_max)
            scores = tl.where((location < locations)[None, :], scores, float("-inf"))
            raised = tl.maximum(largest, tl.max(scores, 1))
            weights = tl.exp2(scores - raised[:, None])
            shrink = tl.exp2(largest - raised)
            total = total * shrink + tl.sum(weights, 1)
            largest = raised
            pooled = pooled * shrink[:, None]
            pooled = tl.dot(weights.to(visual_block.dtype), visual_block, pooled, input_precision=dot)
        slot = (tl.program_id(1) * tl.num_programs(2) + image) * rows + row
        is_row = row < rows
        tl.store(sums + slot[:, None] * channels + channel[None, :], pooled, mask=is_row[:, None])
        tl.store(largest_scores + slot, largest, mask=is_row)
        tl.store(totals + slot, total, mask=is_row)


@jit_for_sizes("words", "splits")
def _combine_kernel(
    sums: tl.tensor,
    largest_scores: tl.tensor,
    totals: tl.tensor,
    offsets: tl.tensor,
    pooled: tl.tensor,
    words: int,
    padded: int,
    splits: int,
    heads: tl.constexpr,
    channels: tl.constexpr,
    block: tl.constexpr,
) -> None:
    image = tl.program_id(1).to(tl.int64)
    rows = heads * padded
    row = tl.program_id(0) * block + tl.arange(0, block)
    channel = tl.arange(0, channels)
    is_word = tl.load(offsets + image * rows + row) > float("-inf")
    largest = tl.full((block,), -1e30, tl.float32)
    total = tl.zeros((block,), tl.float32)
    result = tl.zeros((block, channels), tl.float32)
    for split in range(splits):
        slot = (split * tl.num_programs(1) + image) * rows + row
        score = tl.load(largest_scores + slot, mask=is_word, other=-1e30)
        raised = tl.maximum(largest, score)
        shrink, grow = tl.exp2(largest - raised), tl.exp2(score - raised)
        total = total * shrink + grow * tl.load(totals + slot, mask=is_word, other=0.0)
        part = tl.load(sums + slot[:, None] * channels + channel[None, :], mask=is_word[:, None], other=0.0)
        result = result * shrink[:, None] + part * grow[:, None]
        largest = raised
    result = result / tl.where(is_word, total, 1.0)[:, None]  # zero for padding
    head, word = row // padded, row % padded
    place = ((image * words + word) * heads + head)[:, None] * channels + channel[None, :]
    tl.store(pooled + place, result.to(pooled.dtype.element_ty), mask=(word < words)[:, None])


@cache
def multiprocessors(device: torch.device) -> int:
    """Number of streaming multiprocessors of a GPU; 1 elsewhere."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def choose_splits(programs: int, blocks: int, processors: int) -> int:
    """Into how many parts `blocks` of locations are cut, so that the last round of programs is nearly full.

    Args:
        programs: of one part; blocks: of locations; processors: that run one program each at a time.
    """

    def cost(splits: int) -> float:
        rounds = -(-programs * splits // processors)
        return rounds * -(-blocks // splits) + 0.25 * splits  # the combination reads every part

    return min(range(1, min(MOST_SPLITS, blocks) + 1), key=cost)


def pool_locations(
    visual: Tensor,
    words: FoldedWords,
    limits: Limits,
    *,
    dtype: torch.dtype | None = None,
    dot: str = "ieee",
    tiling: TextTiling | None = None,
) -> Tensor:
    """Locations pooled for every word and head: softmax over locations(visual keys + offsets), times visual.

    Similarities, softmax and sums are float32, the weights of the locations have the type of the locations.

    Args:
        visual: (B, N, C) contiguous.
        words: of the same B, M heads and C.
        limits: of the similarities.
        dtype: of the result, that of visual if None.
        dot: how float32 operands are multiplied, "ieee" or "tf32".
        tiling: by default the one measured best for the type.
    Returns: (B, T, M * C) contiguous; zero for padding.
    """
    if not can_run_kernels(visual, dot, visual.shape[-1]):
        return pool_locations_reference(visual, words, limits).to(dtype or visual.dtype)
    batch, locations, channels = visual.shape
    heads, padded = words.offsets.shape[1:]
    if tiling is None:
        tiling = SINGLE if visual.dtype == torch.float32 else HALF
    row_blocks = triton.cdiv(heads * padded, tiling.rows)
    blocks = triton.cdiv(locations, tiling.locations)
    splits = tiling.splits or choose_splits(row_blocks * batch, blocks, multiprocessors(visual.device))
    split_length = triton.cdiv(blocks, splits) * tiling.locations
    splits = triton.cdiv(locations, split_length)
    sums = torch.empty(splits, batch, heads * padded, channels, dtype=torch.float32, device=visual.device)
    largest, totals = torch.empty(2, *sums.shape[:-1], dtype=torch.float32, device=visual.device)
    _pool_kernel[(row_blocks, splits, batch)](
        visual, words.keys_and_values, words.offsets, sums, largest, totals, locations, words.num_words, padded,
        split_length, heads, channels, tiling.rows, tiling.locations, limits.clamp_min, limits.clamp_max, dot,
        num_warps=tiling.warps, num_stages=tiling.stages,
    )  # fmt: skip
    pooled = torch.empty(batch, words.num_words, heads * channels, dtype=dtype or visual.dtype, device=visual.device)
    _combine_kernel[(heads * padded // COMBINED_ROWS, batch)](
        sums, largest, totals, words.offsets, pooled, words.num_words, padded, splits, heads, channels, COMBINED_ROWS
    )
    return pooled
