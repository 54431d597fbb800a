"""Both softmaxes of deep fusion in training, with their dropout and gradients (arXiv:2112.03857, section 3.2).

The similarity matrix is read twice forward and once backward, and no other matrix of its size in float32 or of other
layout is made. Every location weighs the words, so a tile of whole rows of one head is all that takes; every word
weighs the locations, for which the maxima and sums of the columns are found first. As in flash attention
(arXiv:2205.14135) the sum that the gradient of that softmax subtracts comes from the pooled locations, not from the
matrix. Which weights are dropped is drawn from a counter again in the backward pass (Philox, Salmon et al., SC 2011).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .folded_words import Limits
from .triton_support import jit, jit_for_sizes, next_power_of_2, runs_kernels, tl, triton

MOST_WORDS = 1024
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
CHANCES = 1 << 16  # every weight is dropped by 16 random bits: one draw of 128 serves both weights of four locations
COMBINED_COLUMNS = 128
SMALLEST_BLOCK = 32


class Tiling(NamedTuple):
    """How the passes over the similarities are cut.

    Attributes:
        numbers: of a quarter of a tile; its rows are this by the padded number of words.
        warps: of a program.
        span: locations of a program, a multiple of the rows of a tile.
        column_rows, column_block, column_warps: the same for the pass over columns.
        chunk: locations of a program of that pass, a multiple of four times its rows.
    """

    numbers: int = 1024
    warps: int = 4
    span: int = 128
    column_rows: int = 4
    column_block: int = 256
    column_warps: int = 4
    chunk: int = 256


class TwoWayAttention(NamedTuple):
    """What `two_way_attention` returns.

    Attributes:
        over_words: (B, N, M * T) weights of the words for every location and head, after dropout.
        pooled: (B, M * T, C) locations averaged for every head and word, with weights after dropout.
        sums: (B, M * T) float32 sums of these weights; None without dropout, when they are 1.
    """

    over_words: Tensor
    pooled: Tensor
    sums: Tensor | None


@jit
def _limited(scores: tl.tensor, clamp_min: tl.constexpr, clamp_max: tl.constexpr) -> tl.tensor:
    """Similarities kept inside the limits of the chosen sides; what is no number stays none, as in PyTorch."""
    if clamp_min:
        scores = tl.maximum(scores, -50000.0, propagate_nan=tl.PropagateNan.ALL)
    if clamp_max:
        scores = tl.minimum(scores, 50000.0, propagate_nan=tl.PropagateNan.ALL)
    return scores


@jit
def _exponential(x: tl.tensor) -> tl.tensor:
    return tl.exp2(x * 1.4426950408889634)


@jit
def _word_exponentials(scores: tl.tensor, is_word: tl.tensor, filling: tl.tensor) -> tl.tensor:
    """Exponentials for the softmax of every row over the words, up to a factor of the row."""
    scores = tl.where(is_word, scores, filling)
    return _exponential(scores - tl.max(scores, 1)[:, None])  # equal numbers first, of which those of no word are huge


@jit
def _columns_of(head: tl.tensor, text_mask: tl.tensor, words: int, block: tl.constexpr, has_mask: tl.constexpr) -> Any:
    """(1, block) columns of a head, whether they exist, whether they are words, what stands for those that are not."""
    word = tl.arange(0, block)[None, :]
    is_column = word < words
    is_word = is_column
    if has_mask:
        row = tl.program_id(2).to(tl.int64) * words
        is_word = tl.load(text_mask + row + word, mask=is_column, other=0) != 0
    filling = tl.where(is_column, -1e38, float("-inf"))  # finite: a row without words is uniform
    return head * words + word, is_column, is_word, filling


@jit
def _draw(seed: tl.tensor, column: tl.tensor, location: tl.tensor) -> tl.tensor:
    """128 random bits for every column and four locations, of which this is the first."""
    return tl.philox(tl.load(seed), column, location // 4, tl.program_id(2), 0, n_rounds=7)


@jit
def _part_of(part: tl.constexpr, first: tl.tensor, second: tl.tensor, third: tl.tensor, fourth: tl.tensor) -> tl.tensor:
    if part == 0:
        return first
    elif part == 1:
        return second
    elif part == 2:
        return third
    else:
        return fourth


@jit
def _load_four(matrix: tl.tensor, place: tl.tensor, row: tl.tensor, rows: int, columns: int, exists: tl.tensor) -> Any:
    """Numbers of a row at `place` and of the three after it, before the first of them is used."""
    return (
        tl.load(matrix + place, mask=exists & (row < rows), other=0.0),
        tl.load(matrix + place + columns, mask=exists & (row + 1 < rows), other=0.0),
        tl.load(matrix + place + 2 * columns, mask=exists & (row + 2 < rows), other=0.0),
        tl.load(matrix + place + 3 * columns, mask=exists & (row + 3 < rows), other=0.0),
    )


@jit_for_sizes("locations", "chunk")
def _column_kernel(
    logits: tl.tensor, largest: tl.tensor, totals: tl.tensor, locations: int, columns: int, chunk: int,
    rows: tl.constexpr, block: tl.constexpr, clamp_min: tl.constexpr, clamp_max: tl.constexpr,
) -> None:  # fmt: skip
    """The largest similarity of every column in one chunk of the locations, and the sum of exponentials over it."""
    image = tl.program_id(2).to(tl.int64)
    begin = tl.program_id(1) * chunk
    column = tl.program_id(0) * block + tl.arange(0, block)
    is_column = (column < columns)[None, :]
    logits += (image * locations + begin) * columns
    remaining = tl.minimum(locations - begin, chunk)
    most = tl.full((rows, block), -1e38, tl.float32)
    total = tl.zeros((rows, block), tl.float32)
    for start in range(0, remaining, 4 * rows):
        row = start + 4 * tl.arange(0, rows)[:, None]
        a, b, c, d = _load_four(logits, row * columns + column[None, :], row, remaining, columns, is_column)
        a = tl.where(row < remaining, _limited(a.to(tl.float32), clamp_min, clamp_max), float("-inf"))
        b = tl.where(row + 1 < remaining, _limited(b.to(tl.float32), clamp_min, clamp_max), float("-inf"))
        c = tl.where(row + 2 < remaining, _limited(c.to(tl.float32), clamp_min, clamp_max), float("-inf"))
        d = tl.where(row + 3 < remaining, _limited(d.to(tl.float32), clamp_min, clamp_max), float("-inf"))
        # The exponential of the change of the maximum is shared by four.
        raised = tl.maximum(tl.maximum(most, tl.maximum(a, b)), tl.maximum(c, d))
        total = total * _exponential(most - raised) + (_exponential(a - raised) + _exponential(b - raised))
        total += _exponential(c - raised) + _exponential(d - raised)
        most = raised
    top = tl.max(most, 0)
    total = total * _exponential(most - top[None, :])
    slot = (tl.program_id(1) * tl.num_programs(2) + image) * columns + column
    tl.store(largest + slot, top, mask=column < columns)
    tl.store(totals + slot, tl.sum(total, 0), mask=column < columns)


@jit_for_sizes("chunks", "columns")
def _combine_kernel(
    largest: tl.tensor, totals: tl.tensor, tops: tl.tensor, shares: tl.tensor,
    chunks: int, columns: int, block: tl.constexpr,
) -> None:  # fmt: skip
    """The largest similarity of every column of all images, and one over its sum of exponentials."""
    column = tl.program_id(0) * block + tl.arange(0, block)
    is_column = column < columns
    top = tl.full((block,), -1e38, tl.float32)
    total = tl.zeros((block,), tl.float32)
    for _ in range(chunks):
        other = tl.load(largest + column, mask=is_column, other=0.0)
        raised = tl.maximum(top, other)
        total = total * _exponential(top - raised)
        total += tl.load(totals + column, mask=is_column, other=1.0) * _exponential(other - raised)
        top = raised
        largest += columns
        totals += columns
    tl.store(tops + column, top, mask=is_column)
    tl.store(shares + column, 1.0 / total, mask=is_column)


@jit_for_sizes("locations", "span")
def _weights_kernel(
    logits: tl.tensor, text_mask: tl.tensor, seed: tl.tensor, tops: tl.tensor, shares: tl.tensor,
    over_words: tl.tensor, over_locations: tl.tensor, sums: tl.tensor, locations: int, words: int, span: int,
    heads: tl.constexpr, rows: tl.constexpr, block: tl.constexpr, dropped: tl.constexpr, has_mask: tl.constexpr,
    clamp_min: tl.constexpr, clamp_max: tl.constexpr,
) -> None:  # fmt: skip
    """Both weights of one head and one span of the locations, after dropout, and the sums of those over locations."""
    kept: tl.constexpr = 65536.0 / (65536 - dropped)
    column, is_column, is_word, filling = _columns_of(tl.program_id(0), text_mask, words, block, has_mask)
    columns = heads * words
    image = tl.program_id(2).to(tl.int64)
    begin = tl.program_id(1) * span
    remaining = tl.minimum(locations - begin, span)
    top = tl.load(tops + image * columns + column, mask=is_column, other=0.0)
    share = kept * tl.load(shares + image * columns + column, mask=is_column, other=0.0)
    origin = (image * locations + begin) * columns
    logits += origin
    over_words += origin
    over_locations += origin
    total = tl.zeros((rows, block), tl.float32)
    for start in range(0, remaining, 4 * rows):
        first_row = start + 4 * tl.arange(0, rows)[:, None]
        if dropped > 0:
            r0, r1, r2, r3 = _draw(seed, column, begin + first_row)
        first_place = first_row * columns + column
        s0, s1, s2, s3 = _load_four(logits, first_place, first_row, remaining, columns, is_column)
        for part in tl.static_range(4):
            place = first_place + part * columns
            is_inside = (first_row + part < remaining) & is_column
            scores = _limited(_part_of(part, s0, s1, s2, s3).to(tl.float32), clamp_min, clamp_max)
            of_words = _word_exponentials(scores, is_word, filling)
            of_words *= (kept / tl.sum(of_words, 1))[:, None]
            of_locations = _exponential(scores - top) * share
            if dropped > 0:
                bits = _part_of(part, r0, r1, r2, r3)
                of_words = tl.where((bits & 0xFFFF) >= dropped, of_words, 0.0)
                of_locations = tl.where(((bits >> 16) >= dropped) & is_inside, of_locations, 0.0)
                total += of_locations
            tl.store(over_words + place, of_words.to(over_words.dtype.element_ty), mask=is_inside)
            tl.store(over_locations + place, of_locations.to(over_locations.dtype.element_ty), mask=is_inside)
    if dropped > 0:
        slot = (tl.program_id(1) * tl.num_programs(2) + image) * columns + column
        tl.store(sums + slot, tl.sum(total, 0)[None, :], mask=is_column)


@jit_for_sizes("locations", "span")
def _gradient_kernel(
    logits: tl.tensor, text_mask: tl.tensor, seed: tl.tensor, tops: tl.tensor, shares: tl.tensor,
    grad_words: tl.tensor, grad_locations: tl.tensor, grad_sums: tl.tensor, products: tl.tensor,
    over_locations: tl.tensor, locations: int, words: int, span: int,
    heads: tl.constexpr, rows: tl.constexpr, block: tl.constexpr,
    dropped: tl.constexpr, has_mask: tl.constexpr, clamp_min: tl.constexpr, clamp_max: tl.constexpr,
) -> None:  # fmt: skip
    """The gradient of the similarities, written over that of the weights over locations, and these weights again."""
    column, is_column, is_word, filling = _columns_of(tl.program_id(0), text_mask, words, block, has_mask)
    kept: tl.constexpr = 65536.0 / (65536 - dropped)
    columns = heads * words
    begin = tl.program_id(1) * span
    remaining = tl.minimum(locations - begin, span)
    image = tl.program_id(2).to(tl.int64)
    kept_if_words = tl.where(tl.max(is_word.to(tl.int32), 1) > 0, kept, 0.0)  # what fills a row gets no gradient
    slot = image * columns + column
    top = tl.load(tops + slot, mask=is_column, other=0.0)
    share = kept * tl.load(shares + slot, mask=is_column, other=0.0)
    if_dropped = -tl.load(products + slot, mask=is_column, other=0.0) / kept
    if_kept = if_dropped
    if dropped > 0:
        if_kept += tl.load(grad_sums + slot, mask=is_column, other=0.0)
    origin = (image * locations + begin) * columns
    logits += origin
    grad_words += origin
    grad_locations += origin
    over_locations += origin
    for start in range(0, remaining, 4 * rows):
        first_row = start + 4 * tl.arange(0, rows)[:, None]
        if dropped > 0:
            r0, r1, r2, r3 = _draw(seed, column, begin + first_row)
        place = first_row * columns + column
        s0, s1, s2, s3 = _load_four(logits, place, first_row, remaining, columns, is_column)
        w0, w1, w2, w3 = _load_four(grad_words, place, first_row, remaining, columns, is_column)
        l0, l1, l2, l3 = _load_four(grad_locations, place, first_row, remaining, columns, is_column)
        for part in tl.static_range(4):
            raw = _part_of(part, s0, s1, s2, s3).to(tl.float32)
            to_words = _part_of(part, w0, w1, w2, w3).to(tl.float32)
            to_locations = _part_of(part, l0, l1, l2, l3).to(tl.float32) + if_kept
            scores = _limited(raw, clamp_min, clamp_max)
            of_locations = _exponential(scores - top) * share
            kept_locations = of_locations
            if dropped > 0:
                bits = _part_of(part, r0, r1, r2, r3)
                to_words = tl.where((bits & 0xFFFF) >= dropped, to_words, 0.0)
                to_locations = tl.where((bits >> 16) >= dropped, to_locations, if_dropped)
                kept_locations = tl.where((bits >> 16) >= dropped, of_locations, 0.0)
            of_words = _word_exponentials(scores, is_word, filling)
            normal = 1.0 / tl.sum(of_words, 1)
            mean = tl.sum(of_words * to_words, 1) * normal
            grad = of_words * (to_words - mean[:, None]) * (normal * kept_if_words)[:, None]
            grad = tl.where(raw == scores, grad + of_locations * to_locations, 0.0)
            is_inside = (first_row + part < remaining) & is_column
            target = place + part * columns
            tl.store(grad_locations + target, grad.to(grad_locations.dtype.element_ty), mask=is_inside)
            tl.store(over_locations + target, kept_locations.to(over_locations.dtype.element_ty), mask=is_inside)


class _Setting(NamedTuple):
    """What the kernels of both passes are compiled and cut for."""

    heads: int
    limits: Limits
    dropped: int
    tiling: Tiling

    def launch(
        self, kernel: Any, logits: Tensor, text_mask: Tensor | None, seed: Tensor | None, *tensors: Tensor
    ) -> None:
        """Runs a kernel over all heads, spans and images."""
        batch, locations, columns = logits.shape
        words = columns // self.heads
        block = max(SMALLEST_BLOCK, next_power_of_2(words))
        kernel[(self.heads, triton.cdiv(locations, self.tiling.span), batch)](
            logits, logits if text_mask is None else text_mask, logits if seed is None else seed, *tensors,
            locations, words, self.tiling.span, self.heads, max(1, self.tiling.numbers // block), block, self.dropped,
            text_mask is not None, *self.limits, num_warps=self.tiling.warps,
        )  # fmt: skip


def _column_statistics(logits: Tensor, limits: Limits, tiling: Tiling) -> tuple[Tensor, Tensor]:
    """Similarities (B, N, M T) -> the largest of every column, and one over its sum of exponentials: (B, M T)."""
    batch, locations, columns = logits.shape
    chunks = triton.cdiv(locations, tiling.chunk)
    largest, totals = logits.new_empty(2, chunks, batch, columns, dtype=torch.float32)
    _column_kernel[(triton.cdiv(columns, tiling.column_block), chunks, batch)](
        logits, largest, totals, locations, columns, tiling.chunk, tiling.column_rows, tiling.column_block, *limits,
        num_warps=tiling.column_warps,
    )  # fmt: skip
    tops, shares = logits.new_empty(2, batch, columns, dtype=torch.float32)
    _combine_kernel[(triton.cdiv(batch * columns, COMBINED_COLUMNS),)](
        largest, totals, tops, shares, chunks, batch * columns, COMBINED_COLUMNS, num_warps=1
    )
    return tops, shares


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product in the type of both, under autocast as well."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


class _TwoWayAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, visual: Tensor, text_mask: Tensor | None, seed: Tensor | None, setting: _Setting
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        tops, shares = _column_statistics(logits, setting.limits, setting.tiling)
        over_words, over_locations = torch.empty_like(logits), torch.empty_like(logits)
        spans = triton.cdiv(logits.shape[1], setting.tiling.span) if setting.dropped else 0
        sums = tops.new_empty(spans, *tops.shape)
        setting.launch(_weights_kernel, logits, text_mask, seed, tops, shares, over_words, over_locations, sums)
        pooled = _product(over_locations.transpose(1, 2), visual)
        total = sums.sum(0) if setting.dropped else None
        ctx.setting = setting
        ctx.save_for_backward(logits, visual, text_mask, seed, tops, shares, pooled, total)
        return over_words, pooled, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        logits, visual, text_mask, seed, tops, shares, pooled, total = ctx.saved_tensors
        grad_words, grad_pooled, grad_sums = grads
        grad = _product(visual, grad_pooled.transpose(1, 2))
        products = (grad_pooled.float() * pooled).sum(-1)
        if total is None:
            grad_sums = products  # not read
        else:
            products.addcmul_(grad_sums, total)
        over_locations = torch.empty_like(logits)
        ctx.setting.launch(
            _gradient_kernel, logits, text_mask, seed, tops, shares, grad_words.contiguous(), grad,
            grad_sums.contiguous(), products, over_locations,
        )  # fmt: skip
        grad_visual = _product(over_locations, grad_pooled) if ctx.needs_input_grad[1] else None
        return grad, grad_visual, None, None, None


def serves_two_way_attention(logits: Tensor, heads: int, dropout: float) -> bool:
    """Whether `two_way_attention` takes these similarities (B, N, M * T)."""
    is_served = runs_kernels(logits) and logits.dtype in DTYPES and dropout < 1
    return is_served and 0 < logits.shape[-1] <= MOST_WORDS * heads and logits.numel() > 0


def two_way_attention(
    logits: Tensor,
    visual: Tensor,
    text_mask: Tensor | None,
    heads: int,
    limits: Limits,
    *,
    dropout: float = 0.0,
    tiling: Tiling | None = None,
) -> TwoWayAttention:
    """Softmax over the words and softmax over the locations of the same similarities, and the latter times visual.

    Softmaxes, dropout and sums are float32; weights and results have the type of the similarities. Nothing waits for
    the device, and what is dropped comes from its generator, so CUDA graphs and checkpointing of activations serve.

    Args:
        logits: (B, N, M * T) similarities for which `serves_two_way_attention` holds.
        visual: (B, N, C) in the type of the similarities.
        text_mask: (B, T) integer or bool, 1 = word; masks the softmax over the words only. A row of no words is
            averaged over all T.
        heads: M.
        limits: of the similarities, which get no gradient outside.
        dropout: probability that a weight becomes zero, rounded to a multiple of 2**-16; the others are scaled up.
        tiling: by default the one for any size.
    """
    dropped = min(round(dropout * CHANCES), CHANCES - 1)
    seed = torch.randint(2**63 - 1, (1,), device=logits.device) if dropped else None
    mask = None if text_mask is None else text_mask.contiguous()
    setting = _Setting(heads, limits, dropped, tiling or Tiling())
    return TwoWayAttention(*_TwoWayAttention.apply(logits.contiguous(), visual, mask, seed, setting))
