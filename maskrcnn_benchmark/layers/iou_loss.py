"""IoU losses on distances to the four sides, as FCOS uses them (arXiv:1904.01355)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LOSS_TYPES = ("iou", "linear_iou", "giou")


class IOULoss(nn.Module):
    """Loss between boxes given as distances (left, top, right, bottom) from the same point.

    Args:
        loss_type: "iou" is -log(IoU), "linear_iou" 1 - IoU, "giou" 1 - GIoU.
    Raises: ValueError for another type.
    """

    def __init__(self, loss_type: str = "iou"):
        super().__init__()
        if loss_type not in LOSS_TYPES:
            raise ValueError(f"unknown loss type {loss_type!r}; known are {', '.join(LOSS_TYPES)}")
        self.loss_type = loss_type

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """pred and target (N, 4), weight (N,) -> the weighted sum over its weight, or the mean without weights."""
        left, top, right, bottom = pred.unbind(1)
        target_left, target_top, target_right, target_bottom = target.unbind(1)
        area = (left + right) * (top + bottom)
        target_area = (target_left + target_right) * (target_top + target_bottom)
        width = torch.minimum(left, target_left) + torch.minimum(right, target_right)
        height = torch.minimum(top, target_top) + torch.minimum(bottom, target_bottom)
        intersection = width * height
        union = target_area + area - intersection
        iou = (intersection + 1) / (union + 1)
        if self.loss_type == "iou":
            losses = -iou.log()
        elif self.loss_type == "linear_iou":
            losses = 1 - iou
        else:
            outer_width = torch.maximum(left, target_left) + torch.maximum(right, target_right)
            outer_height = torch.maximum(top, target_top) + torch.maximum(bottom, target_bottom)
            outer = outer_width * outer_height + 1e-7
            losses = 1 - (iou - (outer - union) / outer)
        if weight is not None and bool(weight.sum() > 0):
            return (losses * weight).sum() / weight.sum()
        return losses.mean()
