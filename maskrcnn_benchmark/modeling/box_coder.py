"""Box regression codes: shifts and log scales relative to a reference box."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_LOG_SCALE = math.log(1000 / 16)


class BoxCoder:
    """Codes of two-stage detectors, with the centre of a box at x1 + width / 2.

    Args:
        weights: factors of (dx, dy, dw, dh).
        bbox_xform_clip: largest log scale that decodes; a box grows at most exp(clip) times.
    """

    def __init__(self, weights: Sequence[float], bbox_xform_clip: float = MAX_LOG_SCALE):
        self.weights, self.bbox_xform_clip = tuple(weights), bbox_xform_clip

    def encode(self, reference_boxes: Tensor, proposals: Tensor) -> Tensor:
        """Codes (N, 4) that lead from proposals (N, 4) to reference boxes (N, 4), both xyxy."""
        return _encode(reference_boxes, proposals, self.weights, corner_offset=1.0)

    def decode(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """Boxes (N, 4 * K) from codes (N, 4 * K) of K classes relative to boxes (N, 4), all xyxy."""
        return _decode(rel_codes, boxes, self.weights, self.bbox_xform_clip, corner_offset=1.0)


class CenterBoxCoder:
    """Codes of the dense heads, with the centre of a box at (x1 + x2) / 2.

    Args:
        weights: factors of (dx, dy, dw, dh).
        bbox_xform_clip: largest log scale that decodes.
    """

    def __init__(self, weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0), bbox_xform_clip: float = MAX_LOG_SCALE):
        self.weights, self.bbox_xform_clip = tuple(weights), bbox_xform_clip

    def encode(self, gt_boxes: Tensor, anchors: Tensor) -> Tensor:
        """Codes (N, 4) that lead from anchors (N, 4) to boxes (N, 4), both xyxy."""
        return _encode(gt_boxes, anchors, self.weights, corner_offset=0.0)

    def decode(self, preds: Tensor, anchors: Tensor) -> Tensor:
        """Boxes (..., 4) in xyxy from codes (..., 4) relative to anchors (..., 4); leading dimensions broadcast."""
        return _decode(preds, anchors, self.weights, self.bbox_xform_clip, corner_offset=0.0)


def _centers(boxes: Tensor, corner_offset: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Width, height and centre of boxes (..., 4); the sides count inclusive pixels."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return x2 - x1 + 1, y2 - y1 + 1, (x2 + x1 + corner_offset) / 2, (y2 + y1 + corner_offset) / 2


def _encode(boxes: Tensor, anchors: Tensor, weights: Sequence[float], corner_offset: float) -> Tensor:
    width, height, x, y = _centers(boxes, corner_offset)
    anchor_width, anchor_height, anchor_x, anchor_y = _centers(anchors, corner_offset)
    return torch.stack(
        (
            weights[0] * (x - anchor_x) / anchor_width,
            weights[1] * (y - anchor_y) / anchor_height,
            weights[2] * torch.log(width / anchor_width),
            weights[3] * torch.log(height / anchor_height),
        ),
        dim=-1,
    )


def _decode(codes: Tensor, anchors: Tensor, weights: Sequence[float], clip: float, corner_offset: float) -> Tensor:
    codes = codes.unflatten(-1, (-1, 4))
    anchor_width, anchor_height, anchor_x, anchor_y = (t[..., None] for t in _centers(anchors, corner_offset))
    x = codes[..., 0] / weights[0] * anchor_width + anchor_x
    y = codes[..., 1] / weights[1] * anchor_height + anchor_y
    width = torch.exp((codes[..., 2] / weights[2]).clamp(max=clip)) * anchor_width
    height = torch.exp((codes[..., 3] / weights[3]).clamp(max=clip)) * anchor_height
    # The centre lies between the corners, or half a pixel beyond: the inclusive last pixel is width - 1 further.
    left, top = x - (width - 1 + corner_offset) / 2, y - (height - 1 + corner_offset) / 2
    right, bottom = x + (width - 1 - corner_offset) / 2, y + (height - 1 - corner_offset) / 2
    return torch.stack((left, top, right, bottom), dim=-1).flatten(-2)
