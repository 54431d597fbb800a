"""Contrastive losses between locations and tokens (MDETR, arXiv:2104.12763, section 3.1)."""

from __future__ import annotations

from torch import Tensor

MASKED_LOGIT = -1e6
MIN_COUNT = 1e-6


def contrastive_align_loss(logits: Tensor, is_pair: Tensor) -> Tensor:
    """Every paired location should prefer its tokens, every paired token its locations.

    Args:
        logits: (B, N, T) scaled similarities.
        is_pair: (B, N, T) bool, whether a location belongs to a token.

    Returns: scalar float32, the mean of both directions, each summed over the locations or tokens that have a pair.
    """
    logits = logits.float()
    return (_one_direction(logits, is_pair, dim=2) + _one_direction(logits, is_pair, dim=1)) / 2


def _one_direction(logits: Tensor, is_pair: Tensor, dim: int) -> Tensor:
    pairs = is_pair.to(logits.dtype)
    mean_of_pairs = (logits * pairs).sum(dim) / (pairs.sum(dim) + MIN_COUNT)
    losses = logits.logsumexp(dim) - mean_of_pairs
    return losses.masked_fill(~is_pair.any(dim), 0.0).sum()


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Summed cross-entropy between rows of logits (R, C) and rows of targets (R, C) divided by their sums.

    A row without any target adds nothing.
    """
    share = targets / targets.sum(dim=1, keepdim=True).clamp(min=MIN_COUNT)
    return -(share * logits.log_softmax(dim=1)).sum()
