"""Self-attention of words: flash attention (arXiv:2205.14135) with limits on the logits and a mask of the words."""

from __future__ import annotations

import torch
from torch import Tensor

from .folded_words import CLAMP_LIMIT, LOG2_E, Limits, can_run_kernels, limit_scores
from .triton_support import jit_for_sizes, next_power_of_2, tl, triton

MOST_ROWS = 64


def word_attention_reference(qkv: Tensor, text_mask: Tensor, heads: int, limits: Limits) -> Tensor:
    """The definition of `word_attention`."""
    query, key, value = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # (B, M, T, D / M)
    logits = (query @ key.transpose(-2, -1)).float() * query.shape[-1] ** -0.5
    if limits.clamp_min or limits.clamp_max:
        low, high = -CLAMP_LIMIT if limits.clamp_min else None, CLAMP_LIMIT if limits.clamp_max else None
        logits = logits.clamp(low, high)
    logits = logits.masked_fill((text_mask == 0)[:, None, None], torch.finfo(torch.float32).min)
    return (logits.softmax(-1).to(value.dtype) @ value).transpose(1, 2).flatten(2)


@jit_for_sizes("words")
def _word_attention_kernel(
    qkv: tl.tensor,
    text_mask: tl.tensor,
    out: tl.tensor,
    words: int,
    scale: float,
    heads: tl.constexpr,
    head_width: tl.constexpr,
    block: tl.constexpr,
    clamp_min: tl.constexpr,
    clamp_max: tl.constexpr,
    dot: tl.constexpr,
) -> None:
    head = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    channels: tl.constexpr = heads * head_width
    row = tl.program_id(0) * block + tl.arange(0, block)
    column = head * head_width + tl.arange(0, head_width)
    qkv += image * words * (3 * channels)
    text_mask += image * words
    query = tl.load(qkv + row[:, None] * (3 * channels) + column[None, :], mask=(row < words)[:, None], other=0.0)
    largest = tl.full((block,), float("-inf"), tl.float32)
    total = tl.zeros((block,), tl.float32)
    result = tl.zeros((block, head_width), tl.float32)
    for start in range(0, words, block):
        key_row = start + tl.arange(0, block)
        exists = key_row < words
        place = key_row[:, None] * (3 * channels) + column[None, :]
        key = tl.load(qkv + place + channels, mask=exists[:, None], other=0.0)
        value = tl.load(qkv + place + 2 * channels, mask=exists[:, None], other=0.0)
        is_word = tl.load(text_mask + key_row, mask=exists, other=0) != 0
        scores = tl.dot(query, tl.trans(key), input_precision=dot) * scale
        scores = limit_scores(scores, clamp_min, clamp_max)
        scores = tl.where(is_word[None, :], scores, -1e30)  # finite: a text without words is averaged
        scores = tl.where(exists[None, :], scores, float("-inf"))
        raised = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp2(scores - raised[:, None])
        shrink = tl.exp2(largest - raised)
        total = total * shrink + tl.sum(weights, 1)
        result = result * shrink[:, None]
        result = tl.dot(weights.to(value.dtype), value, result, input_precision=dot)
        largest = raised
    result = result / total[:, None]
    target = out + (image * words + row[:, None]) * channels + column[None, :]
    tl.store(target, result.to(out.dtype.element_ty), mask=(row < words)[:, None])


def word_attention(qkv: Tensor, text_mask: Tensor, heads: int, limits: Limits, *, dot: str = "ieee") -> Tensor:
    """Multi-head attention of all words of a text to its words that are no padding.

    Scores and softmax are float32. A text of padding alone is averaged.

    Args:
        qkv: (B, T, 3 D) query, key and value of all heads side by side, contiguous.
        text_mask: (B, T) integer or bool, 1 = word.
        heads: how many; D / heads has to be a power of 2 and at least 16 for the kernel to run.
        limits: of the logits.
        dot: how float32 operands are multiplied, "ieee" or "tf32".
    Returns: (B, T, D) contiguous, in the type of qkv.
    """
    batch, words, width = qkv.shape
    head_width = width // (3 * heads)
    if not can_run_kernels(qkv, dot, head_width):
        return word_attention_reference(qkv, text_mask, heads, limits)
    out = torch.empty(batch, words, width // 3, dtype=qkv.dtype, device=qkv.device)
    block = max(16, min(MOST_ROWS, next_power_of_2(words)))
    _word_attention_kernel[(triton.cdiv(words, block), heads, batch)](
        qkv, text_mask.contiguous(), out, words, head_width**-0.5 * LOG2_E, heads, head_width, block,
        limits.clamp_min, limits.clamp_max, dot,
    )  # fmt: skip
    return out
