"""What the two directions of deep fusion share: words folded with the weights of all heads, and their similarities.

With the projections of queries and keys multiplied into one matrix for each head, the similarity of location n and
word t is a product of C numbers: visual[n] . keys[t, m] + offsets[m, t]. With the projections of values and outputs
multiplied likewise, word t adds values[t, m] to the location. No tensor of N x embed_dim is needed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .triton_support import jit, runs_kernels, tl

LOG2_E = math.log2(math.e)
CLAMP_LIMIT = 50000.0  # as in the plain modules, for fp16 ends at 65504
WORD_PADDING = 16
SMALLEST_PADDED = 64  # so that no block of columns touches more than two heads


class Limits(NamedTuple):
    """Whether similarities are kept from falling below -50000, and from rising above 50000."""

    clamp_min: bool
    clamp_max: bool


class FoldedWords(NamedTuple):
    """Words as every head sees them.

    Attributes:
        keys_and_values: (B, T, 2, M, C) contiguous, in the type of the locations; keys make similarities in units of
            log 2, that is natural ones times log2(e).
        offsets: (B, M, P) float32, added to the similarities in the same units; minus infinity = padding. P is
            `padded_words(T)`.
    """

    keys_and_values: Tensor
    offsets: Tensor

    @property
    def num_words(self) -> int:
        """Number T of words of the longest caption."""
        return self.keys_and_values.shape[1]


def padded_words(words: int) -> int:
    """Columns that one head takes where the words of all heads lie one after the other."""
    return max(SMALLEST_PADDED, -(-words // WORD_PADDING) * WORD_PADDING)


def can_run_kernels(tensor: Tensor, dot: str, width: int) -> bool:
    """Whether kernels take the tensor for products over `width` numbers; exact float32 is faster in plain PyTorch."""
    is_exact = tensor.dtype == torch.float32 and dot == "ieee" and tensor.is_cuda
    return runs_kernels(tensor) and not is_exact and width >= 16 and width & (width - 1) == 0


def similarities(visual: Tensor, words: FoldedWords, image: int, limits: Limits) -> Tensor:
    """Natural similarities (N, M, T) of one image, float32, without the mask."""
    keys = words.keys_and_values[image, :, 0].transpose(0, 1).flatten(0, 1)  # (M T, C)
    offsets = words.offsets[image, :, : words.num_words]
    offsets = offsets.masked_fill(offsets.isneginf(), 0.0)
    logits = (visual[image] @ keys.t()).float().unflatten(1, offsets.shape) + offsets
    low = -CLAMP_LIMIT if limits.clamp_min else None
    high = CLAMP_LIMIT if limits.clamp_max else None
    logits = logits / LOG2_E
    return logits if low is None and high is None else logits.clamp_(low, high)


@jit
def limit_scores(scores: tl.tensor, clamp_min: tl.constexpr, clamp_max: tl.constexpr) -> tl.tensor:
    """Similarities in units of log 2, kept inside the limits of the chosen sides."""
    if clamp_min:
        scores = tl.maximum(scores, -50000.0 * 1.4426950408889634)
    if clamp_max:
        scores = tl.minimum(scores, 50000.0 * 1.4426950408889634)
    return scores
