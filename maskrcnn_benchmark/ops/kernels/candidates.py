"""Scores of pairs of location and class from the logits of words, without a tensor of all pairs.

The score of a class is the mean of the probabilities of its tokens. Pairs whose score exceeds a threshold are ranked by
score times centerness; all others rank EMPTY. `rank_locations` gives the best rank at every location, `rank_pairs` all
ranks at chosen locations; both compute the same numbers for a location, so that the best locations have the best pairs.

Probabilities are float32. The matrix units multiply them as sums of three bfloat16 numbers, which is exact, with the
weights of the tokens, and add in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .triton_support import jit, next_power_of_2, runs_kernels, tl, triton

EMPTY = -1.0  # below every rank
PADDING = -2.0  # below EMPTY
MAX_CLASSES = 256  # columns of one tile; more take the definition
BLOCK_ROWS, BLOCK_TOKENS = 64, 32


@jit
def _probability(x: tl.tensor) -> tl.tensor:
    return 1.0 / (1.0 + tl.exp(-x.to(tl.float32)))


@jit
def _rank_kernel(
    logits: tl.tensor,
    centerness: tl.tensor,
    weights: tl.tensor,
    totals: tl.tensor,
    locations: tl.tensor,
    ranks: tl.tensor,
    num_rows: int,
    num_locations: int,
    num_tokens: int,
    num_classes: int,
    logits_image: int,
    logits_row: int,
    centerness_image: int,
    weights_image: int,
    totals_image: int,
    ranks_image: int,
    threshold: float,
    block_rows: tl.constexpr,
    block_tokens: tl.constexpr,
    block_classes: tl.constexpr,
) -> None:
    """Ranks of the rows of one image: all classes of the given locations, or the best class of every location."""
    image = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    classes = tl.arange(0, block_classes)
    if locations is None:
        location = rows.to(tl.int64)
        is_used = rows < num_locations
    else:
        location = tl.load(locations + image * num_rows + rows, mask=rows < num_rows, other=-1)
        is_used = location >= 0
    sums = tl.zeros((block_rows, block_classes), tl.float32)
    for start in range(0, num_tokens, block_tokens):
        tokens = start + tl.arange(0, block_tokens)
        is_token = tokens < num_tokens
        x = tl.load(
            logits + image * logits_image + location[:, None] * logits_row + tokens[None, :],
            mask=is_used[:, None] & is_token[None, :],
            other=float("-inf"),
        )
        w = tl.load(
            weights + image * weights_image + tokens[:, None] * num_classes + classes[None, :],
            mask=is_token[:, None] & (classes < num_classes)[None, :],
            other=0.0,
        )
        probability = _probability(x)
        high = probability.to(w.dtype)
        rest = probability - high.to(tl.float32)
        middle = rest.to(w.dtype)
        low = (rest - middle.to(tl.float32)).to(w.dtype)
        sums = tl.dot(low, w, sums, input_precision="ieee")
        sums = tl.dot(middle, w, sums, input_precision="ieee")
        sums = tl.dot(high, w, sums, input_precision="ieee")
    total = tl.load(totals + image * totals_image + classes, mask=classes < num_classes, other=0.0)
    score = sums / tl.where(total > 0, total, 1.0)[None, :]
    is_candidate = (score > threshold) & (total > 0)[None, :] & is_used[:, None]
    center = tl.load(centerness + image * centerness_image + location, mask=is_used, other=0.0)
    rank = tl.where(is_candidate, score * _probability(center)[:, None], -1.0)
    if locations is None:
        best = tl.where(is_used, tl.max(rank, 1), -2.0)
        tl.store(ranks + image * ranks_image + rows, best, mask=rows < num_rows)
    else:
        place = image * ranks_image + rows.to(tl.int64)[:, None] * num_classes + classes[None, :]
        tl.store(ranks + place, rank, mask=(rows < num_rows)[:, None] & (classes < num_classes)[None, :])


def ranks_reference(logits: Tensor, centerness: Tensor, matrix: Tensor, threshold: float) -> Tensor:
    """Ranks (B, N, C) of all pairs; arguments as in `rank_pairs`."""
    totals = matrix.sum(1, keepdim=True)
    scores = logits.float().sigmoid() @ matrix / torch.where(totals > 0, totals, 1.0)
    is_candidate = (scores > threshold) & (totals > 0)
    return torch.where(is_candidate, scores * centerness.float().sigmoid()[..., None], EMPTY)


def rank_locations(logits: Tensor, centerness: Tensor, matrix: Tensor, threshold: float, width: int) -> Tensor:
    """The best rank at every location.

    Args:
        logits, centerness, matrix, threshold: as in `rank_pairs`.
        width: number of columns W >= N of the result.

    Returns: (B, W) float32, PADDING from column N on.
    """
    if not _runs(logits, matrix):
        best = ranks_reference(logits, centerness, matrix, threshold).amax(-1)
        return torch.nn.functional.pad(best, (0, width - best.shape[1]), value=PADDING)
    ranks = torch.empty(len(logits), width, dtype=torch.float32, device=logits.device)
    _launch(logits, centerness, matrix, threshold, None, ranks)
    return ranks


def rank_pairs(logits: Tensor, centerness: Tensor, matrix: Tensor, threshold: float, locations: Tensor) -> Tensor:
    """The ranks of all classes at some locations.

    Args:
        logits: (B, N, T) of words, of any floating type.
        centerness: (B, N) logits, or (1, N) for all images.
        matrix: (S, T, C) float32, S = B or 1: how often a token occurs in a class, or any multiple of that. A class
            without tokens has no candidates.
        threshold: on the class score.
        locations: (B, R) int64, -1 for none.

    Returns: (B, R, C) float32.
    """
    if not _runs(logits, matrix):
        index = locations.clamp(min=0)
        rows = logits.gather(1, index[..., None].expand(-1, -1, logits.shape[-1]))
        centers = centerness.expand(len(logits), -1).gather(1, index)
        ranks = ranks_reference(rows, centers, matrix, threshold)
        return ranks.masked_fill((locations < 0)[..., None], EMPTY)
    ranks = torch.empty(*locations.shape, matrix.shape[2], dtype=torch.float32, device=logits.device)
    _launch(logits, centerness, matrix, threshold, locations.contiguous(), ranks)
    return ranks


def _runs(logits: Tensor, matrix: Tensor) -> bool:
    return runs_kernels(logits) and 0 < matrix.shape[2] <= MAX_CLASSES


def _launch(
    logits: Tensor, centerness: Tensor, matrix: Tensor, threshold: float, locations: Tensor | None, ranks: Tensor
) -> None:
    logits = logits if logits.stride(-1) == 1 else logits.contiguous()
    centerness = centerness if centerness.stride(-1) == 1 else centerness.contiguous()
    weights = matrix.to(torch.bfloat16 if matrix.is_cuda else torch.float32).contiguous()  # Triton interprets float32
    totals = weights.float().sum(1)
    num_rows, num_classes = ranks.shape[1], matrix.shape[2]
    block_classes = max(16, next_power_of_2(num_classes))
    _rank_kernel[(triton.cdiv(num_rows, BLOCK_ROWS), len(logits))](
        logits,
        centerness,
        weights,
        totals,
        locations,
        ranks,
        num_rows,
        logits.shape[1],
        logits.shape[2],
        num_classes,
        logits.stride(0),
        logits.stride(1),
        centerness.stride(0) if len(centerness) > 1 else 0,
        weights.stride(0) if len(weights) > 1 else 0,
        totals.stride(0) if len(totals) > 1 else 0,
        ranks.stride(0),
        threshold,
        BLOCK_ROWS,
        BLOCK_TOKENS,
        block_classes,
        num_warps=8 if block_classes > 128 else 4,
    )
