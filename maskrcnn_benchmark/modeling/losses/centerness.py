"""Centerness: how central a location lies in its box (arXiv:1904.01355, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor


def centerness_targets(anchors: Tensor, gt_boxes: Tensor) -> Tensor:
    """Centerness (N,) in [0, 1] of the centres of anchors (N, 4) in boxes (N, 4), both xyxy; 0 outside."""
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    low, high = centers - gt_boxes[:, :2], gt_boxes[:, 2:] - centers
    ratio = torch.minimum(low, high).clamp(min=0) / torch.maximum(low, high)
    return ratio.prod(-1).sqrt()
