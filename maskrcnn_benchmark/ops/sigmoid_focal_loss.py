"""Sigmoid focal loss (arXiv:1708.02002) with class labels, and with a target per token of a caption."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sigmoid_focal_loss(logits: Tensor, labels: Tensor, gamma: float, alpha: float) -> Tensor:
    """Focal loss of every class against all others, for labels counted from 1.

    Args:
        logits: (N, C), class c in column c - 1.
        labels: (N,) integers; 0 is background, larger than C a negative of every class, negative values are ignored.
        gamma: exponent that plays down easy examples.
        alpha: weight of the positives, 1 - alpha that of the negatives.

    Returns: (N, C) loss, not reduced; float32 at least.
    Raises: ValueError for shapes that do not fit.
    """
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"need logits (N, C) and labels (N,), got {tuple(logits.shape)} and {tuple(labels.shape)}")
    logits = _at_least_float32(logits)
    columns = torch.arange(1, logits.shape[1] + 1, device=logits.device)
    labels = labels[:, None]
    positive = labels == columns
    p = logits.sigmoid()
    # F.logsigmoid keeps its precision where p rounds to 0 or 1.
    loss_positive = -alpha * (1 - p) ** gamma * F.logsigmoid(logits)
    loss_negative = -(1 - alpha) * p**gamma * F.logsigmoid(-logits)
    loss = torch.where(positive, loss_positive, loss_negative)
    return torch.where(labels >= 0, loss, torch.zeros_like(loss))


def token_sigmoid_focal_loss(
    logits: Tensor, targets: Tensor, text_mask: Tensor | None, alpha: float, gamma: float
) -> Tensor:
    """Focal loss between locations and the tokens of their caption.

    Args:
        logits: (B, N, T).
        targets: (B, N, T) in [0, 1].
        text_mask: (B, T), larger than 0 for tokens that count, or None if all do.
        alpha: weight of the positives, 1 - alpha that of the negatives; negative for no weight.
        gamma: exponent that plays down easy examples.

    Returns: the sum, a scalar; float32 at least.
    Raises: ValueError for shapes that do not fit.
    """
    if logits.dim() != 3 or targets.shape != logits.shape:
        raise ValueError(
            f"logits and targets must share a shape (B, N, T), got {tuple(logits.shape)} and {tuple(targets.shape)}"
        )
    logits = _at_least_float32(logits)
    targets = targets.to(logits.dtype)
    if text_mask is not None:
        if text_mask.shape != (logits.shape[0], logits.shape[2]):
            raise ValueError(
                f"text_mask must have the shape {(logits.shape[0], logits.shape[2])} of the batch and the tokens, "
                f"got {tuple(text_mask.shape)}"
            )
        # Where the mask is 0 a logit may be anything; it must reach neither the sum nor the gradient.
        logits = logits.masked_fill(text_mask[:, None] <= 0, 0.0)
    p = logits.sigmoid()
    p_target = p * targets + (1 - p) * (1 - targets)
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * (1 - p_target) ** gamma
    if alpha >= 0:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    if text_mask is not None:
        loss = loss.masked_fill(text_mask[:, None] <= 0, 0.0)
    return loss.sum()


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
