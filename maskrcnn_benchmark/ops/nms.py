"""Non-maximum suppression with the pixel convention of the original: sides are x2 - x1 + 1.

Every function here compares strictly (a box goes if the overlap is *larger* than the threshold), breaks ties of the
score by the lower index, and gives the same result on every device.
"""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy suppression without classes.

    Args:
        boxes: (N, 4) xyxy with inclusive ends.
        scores: (N,).
        iou_threshold: a box is dropped if its IoU with a kept, better box exceeds it.

    Returns: kept indices (K,) int64, ascending.
    Raises: ValueError for shapes that do not fit.
    """
    _check(boxes, scores)
    return torchvision.ops.nms(_exclusive(boxes), scores.double(), iou_threshold).sort().values


def ml_nms(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """Greedy suppression among boxes of the same label.

    Args:
        boxes: (N, 4) xyxy with inclusive ends.
        scores: (N,).
        labels: (N,) of any numeric type.
        iou_threshold: a box is dropped if its IoU with a kept, better box of its label exceeds it.

    Returns: kept indices (K,) int64, ascending.
    Raises: ValueError for shapes that do not fit.
    """
    _check(boxes, scores)
    if labels.shape != scores.shape:
        raise ValueError(f"labels must have the shape of scores, {tuple(scores.shape)}, got {tuple(labels.shape)}")
    if boxes.shape[0] == 0:
        return torch.empty(0, dtype=torch.int64, device=boxes.device)
    # Each label gets a place of its own, so that boxes of different labels never meet. In float64 the shift leaves
    # the overlaps of float32 boxes as they are.
    apart = _exclusive(boxes)
    apart = apart + (labels.to(torch.float64) * (apart.max() - apart.min() + 1))[:, None]
    return torchvision.ops.nms(apart, scores.double(), iou_threshold).sort().values


def soft_nms(
    boxes: Tensor, scores: Tensor, score_threshold: float = 0.001, sigma: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Gaussian soft suppression (arXiv:1704.04503): overlap lowers a score instead of dropping the box.

    Takes the best remaining box, multiplies the scores of the others by exp(-IoU^2 / sigma), drops those that fall
    below the threshold, and goes on.

    Args:
        boxes: (N, 4) xyxy with inclusive ends.
        scores: (N,).
        score_threshold: boxes whose lowered score is smaller are dropped.
        sigma: width of the Gaussian.

    Returns: kept indices (K,) int64 in the order they were taken, and their new scores (K,).
    Raises: ValueError for shapes that do not fit or sigma <= 0.
    """
    _check(boxes, scores)
    if sigma <= 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    corners = _exclusive(boxes)
    current = scores.clone()
    alive = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    taken: list[Tensor] = []
    for _ in range(len(scores)):
        if not bool(alive.any()):
            break
        best = current.masked_fill(~alive, -torch.inf).argmax()
        taken.append(best)
        alive[best] = False
        overlap = torchvision.ops.box_iou(corners[best][None], corners)[0].to(current.dtype)
        current = torch.where(alive, current * torch.exp(-(overlap**2) / sigma), current)
        alive &= current >= score_threshold
    keep = torch.stack(taken) if taken else torch.empty(0, dtype=torch.int64, device=scores.device)
    return keep, current[keep]


def _exclusive(boxes: Tensor) -> Tensor:
    """Moves the inclusive ends by one pixel, so that a side is the plain difference; float64."""
    boxes = boxes.to(torch.float64)
    return torch.cat((boxes[:, :2], boxes[:, 2:] + 1), dim=1)


def _check(boxes: Tensor, scores: Tensor) -> None:
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must have the shape (N, 4), got {tuple(boxes.shape)}")
    if scores.shape != boxes.shape[:1]:
        raise ValueError(f"scores must have the shape ({boxes.shape[0]},) of the boxes, got {tuple(scores.shape)}")
