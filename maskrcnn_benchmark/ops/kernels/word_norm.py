"""Row kernels of text: the post-norm of a BERT layer, and the norm before deep fusion with what it needs of each word.

The residual stream is float32; a copy in the type of matrix operands is written at the same time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .folded_words import CLAMP_LIMIT, padded_words
from .swin_norm import normalise_rows
from .triton_support import jit_for_sizes, next_power_of_2, runs_kernels, tl, triton

TILE_NUMBERS = 2048  # of one program

NormParts = tuple[Tensor, Tensor, float]
HeadParts = tuple[Tensor, Tensor]


def post_layer_norm_reference(
    update: Tensor, bias: Tensor, residual: Tensor, norm: NormParts, dtype: torch.dtype, limits: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """The definition of `post_layer_norm`; limits: of the update and of the result."""
    weight, norm_bias, eps = norm
    update = update + bias
    if limits[0]:
        update = update.clamp(-CLAMP_LIMIT, CLAMP_LIMIT)
    result = F.layer_norm(residual + update, weight.shape, weight, norm_bias, eps)
    if limits[1]:
        result = result.clamp(-CLAMP_LIMIT, CLAMP_LIMIT)
    return result, result.to(dtype)


@jit_for_sizes("rows")
def _post_layer_norm_kernel(
    update: tl.tensor,
    bias: tl.tensor,
    residual: tl.tensor,
    weight: tl.tensor,
    norm_bias: tl.tensor,
    result: tl.tensor,
    operand: tl.tensor,
    rows: int,
    eps: float,
    width: tl.constexpr,
    block: tl.constexpr,
    tile_rows: tl.constexpr,
    limit_update: tl.constexpr,
    limit_result: tl.constexpr,
) -> None:
    row = tl.program_id(0) * tile_rows + tl.arange(0, tile_rows)
    columns = tl.arange(0, block)
    place = row.to(tl.int64)[:, None] * width + columns[None, :]
    is_used = (row < rows)[:, None] & (columns < width)[None, :]
    x = tl.load(update + place, mask=is_used, other=0.0)
    x += tl.load(bias + columns, mask=columns < width, other=0.0)[None, :]
    if limit_update:
        x = tl.minimum(tl.maximum(x, -50000.0), 50000.0)
    x += tl.load(residual + place, mask=is_used, other=0.0)
    y = normalise_rows(x, weight, norm_bias, eps, width, block)
    if limit_result:
        y = tl.minimum(tl.maximum(y, -50000.0), 50000.0)
    tl.store(result + place, y, mask=is_used)
    tl.store(operand + place, y.to(operand.dtype.element_ty), mask=is_used)


def post_layer_norm(
    update: Tensor,
    bias: Tensor,
    residual: Tensor,
    norm: NormParts,
    dtype: torch.dtype,
    *,
    limit_update: bool = False,
    limit_result: bool = False,
) -> tuple[Tensor, Tensor]:
    """LayerNorm of residual + (update + bias).

    Args:
        update, residual: (R, D) float32, contiguous.
        bias: (D,) float32; norm: weight and bias (D,) float32 of the LayerNorm, and its epsilon.
        dtype: of the second result.
        limit_update, limit_result: keep update + bias, and the result, inside -50000 and 50000.
    Returns: the result (R, D) in float32 and in dtype; for float32 they may be one tensor.
    """
    if not runs_kernels(update):
        return post_layer_norm_reference(update, bias, residual, norm, dtype, (limit_update, limit_result))
    rows, width = update.shape
    result = torch.empty_like(residual)
    operand = result if dtype == torch.float32 else torch.empty_like(residual, dtype=dtype)
    block = next_power_of_2(width)
    tile_rows = max(1, TILE_NUMBERS // block)
    _post_layer_norm_kernel[(triton.cdiv(rows, tile_rows),)](
        update, bias, residual, norm[0], norm[1], result, operand, rows, norm[2], width, block, tile_rows,
        limit_update, limit_result,
    )  # fmt: skip
    return result, operand


def normalise_words_reference(
    text: Tensor, text_mask: Tensor, norm: NormParts, head: HeadParts, addend: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The definition of `normalise_words`."""
    (weight, bias, eps), (head_weight, head_bias) = norm, head
    normed = F.layer_norm(text, weight.shape, weight, bias, eps)
    offsets = (normed @ head_weight.t() + head_bias).transpose(1, 2)  # (B, M, T)
    offsets = offsets.masked_fill((text_mask == 0)[:, None], float("-inf"))
    words = text.shape[1]
    offsets = F.pad(offsets, (0, padded_words(words) - words), value=float("-inf"))
    return normed + addend, normed.to(dtype), offsets


@jit_for_sizes("words")
def _normalise_words_kernel(
    text: tl.tensor,
    text_mask: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    head_weight: tl.tensor,
    head_bias: tl.tensor,
    addend: tl.tensor,
    residual: tl.tensor,
    operand: tl.tensor,
    offsets: tl.tensor,
    words: int,
    padded: int,
    eps: float,
    width: tl.constexpr,
    block: tl.constexpr,
    heads: tl.constexpr,
    head_block: tl.constexpr,
) -> None:
    """One word, or one column of padding."""
    word = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    head = tl.arange(0, head_block)
    target = offsets + (image * heads + head) * padded + word
    offset = tl.full((head_block,), float("-inf"), tl.float32)
    if word < words:
        columns = tl.arange(0, block)
        is_used = columns < width
        place = (image * words + word) * width + columns
        x = tl.load(text + place, mask=is_used, other=0.0)
        y = normalise_rows(x[None, :], weight, bias, eps, width, block)
        normed = tl.reshape(y, (block,))
        extra = tl.load(addend + columns, mask=is_used, other=0.0)
        tl.store(residual + place, normed + extra, mask=is_used)
        tl.store(operand + place, normed.to(operand.dtype.element_ty), mask=is_used)
        weights = tl.load(
            head_weight + head[:, None] * width + columns[None, :],
            mask=(head < heads)[:, None] & is_used[None, :],
            other=0.0,
        )
        is_word = tl.load(text_mask + image * words + word) != 0
        products = tl.sum(weights * y, 1) + tl.load(head_bias + head, mask=head < heads, other=0.0)
        offset = tl.where(is_word, products, float("-inf"))
    tl.store(target, offset, mask=head < heads)


def normalise_words(
    text: Tensor, text_mask: Tensor, norm: NormParts, head: HeadParts, addend: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm of every word, and one number of it for each head.

    Args:
        text: (B, T, D) float32, contiguous; text_mask: (B, T) integer or bool, 1 = word.
        norm: weight and bias (D,) float32 of the LayerNorm, and its epsilon; addend: (D,) float32.
        head: weights (M, D) and biases (M,) float32 of the numbers.
        dtype: of the second result.
    Returns:
        normed + addend (B, T, D) float32; normed (B, T, D) in dtype; normed @ weights^T + biases as
        (B, M, P) float32 with minus infinity at padding, where P is `padded_words(T)`.
    """
    if not runs_kernels(text):
        return normalise_words_reference(text, text_mask, norm, head, addend, dtype)
    batch, words, width = text.shape
    heads, padded = len(head[0]), padded_words(words)
    residual, operand = torch.empty_like(text), torch.empty_like(text, dtype=dtype)
    offsets = torch.empty(batch, heads, padded, dtype=torch.float32, device=text.device)
    _normalise_words_kernel[(padded, batch)](
        text, text_mask.contiguous(), norm[0], norm[1], *head, addend, residual, operand, offsets,
        words, padded, norm[2], width, next_power_of_2(width), heads, next_power_of_2(heads),
    )  # fmt: skip
    return residual, operand, offsets
