"""Generalised IoU loss (arXiv:1902.09630)."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-7


def giou_losses(pred: Tensor, target: Tensor) -> Tensor:
    """1 - GIoU of pairs of boxes; sides are plain differences here, without the inclusive pixel.

    Args:
        pred: (N, 4) xyxy; an inverted box counts as empty.
        target: (N, 4) xyxy.

    Returns: (N,) float32.
    """
    pred, target = pred.float(), target.float()
    pred_low, pred_high = pred[:, :2], torch.maximum(pred[:, :2], pred[:, 2:])
    target_low, target_high = target[:, :2], target[:, 2:]
    overlap = (torch.minimum(pred_high, target_high) - torch.maximum(pred_low, target_low)).clamp(min=0).prod(-1)
    union = (pred_high - pred_low).prod(-1) + (target_high - target_low).prod(-1) - overlap + EPSILON
    enclosing = (torch.maximum(pred_high, target_high) - torch.minimum(pred_low, target_low)).prod(-1) + EPSILON
    return 1 - (overlap / union - (enclosing - union) / enclosing)


def giou_loss(pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Sum of `giou_losses`, a scalar; weight (N,) are factors. If they sum to 0 or less, all count 1."""
    losses = giou_losses(pred, target)
    if weight is None:
        return losses.sum()
    return (losses * torch.where(weight.sum() > 0, weight, torch.ones_like(weight))).sum()
