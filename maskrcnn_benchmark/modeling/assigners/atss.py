"""Adaptive training sample selection (ATSS, arXiv:1912.02424): which anchors are trained to predict which box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

MIN_INSIDE = 0.01  # pixels between an anchor centre and the sides of its box


class Assignment(NamedTuple):
    """The box of every anchor of an image.

    labels: (N,) int64, the label of the box, 0 for unmatched anchors.
    gt_index: (N,) int64, the row of the box, 0 for unmatched anchors.
    is_positive: (N,) bool.
    """

    labels: Tensor
    gt_index: Tensor
    is_positive: Tensor


@torch.no_grad()
def atss_assign(
    anchors: Tensor, level_sizes: Sequence[int], gt_boxes: Tensor, gt_labels: Tensor, topk: int = 9
) -> Assignment:
    """Matches the anchors of one image with its boxes.

    Of every level the `topk` anchors whose centres are closest to that of a box are its candidates. Those are positive
    whose IoU reaches the mean plus the (unbiased) standard deviation over the candidates of the box, and whose centre
    lies inside it. An anchor that is positive for several boxes takes the one of the highest IoU, of equal ones the
    first. Equal distances are common, with centres at whole pixels: see `closest_anchors`.

    Args:
        anchors: (N, 4) xyxy, levels one after another.
        level_sizes: number of anchors of each level, N in sum.
        gt_boxes: (G, 4) xyxy; G = 0 leaves all anchors unmatched.
        gt_labels: (G,) int64, 1 or larger.
        topk: candidates per level and box.

    Raises: ValueError if sizes do not add up.
    """
    num_anchors, num_boxes = len(anchors), len(gt_boxes)
    if sum(level_sizes) != num_anchors:
        raise ValueError(f"levels of {list(level_sizes)} anchors do not add up to {num_anchors}")
    if len(gt_labels) != num_boxes:
        raise ValueError(f"{num_boxes} boxes but {len(gt_labels)} labels")
    unmatched = torch.zeros(num_anchors, dtype=torch.int64, device=anchors.device)
    if num_boxes == 0:
        return Assignment(unmatched, unmatched, unmatched.bool())

    candidates = closest_anchors(anchors, level_sizes, gt_boxes, topk)  # (G, K)
    iou = _iou_with_boxes(anchors[candidates], gt_boxes)
    is_positive = _passes_threshold(iou) & _center_is_inside(anchors[candidates], gt_boxes)

    # Several boxes may want an anchor: the best IoU wins, then the first box.
    flat_iou = torch.where(is_positive, iou, -1.0).flatten()
    flat_anchor = candidates.flatten()
    best = torch.full((num_anchors,), -1.0, device=anchors.device).scatter_reduce(0, flat_anchor, flat_iou, "amax")
    wins = is_positive.flatten() & (flat_iou == best[flat_anchor])
    box = torch.arange(num_boxes, device=anchors.device)[:, None].expand_as(candidates).flatten()
    box = torch.where(wins, box, num_boxes)
    gt_index = torch.full_like(unmatched, num_boxes).scatter_reduce(0, flat_anchor, box, "amin")
    matched = gt_index < num_boxes
    gt_index = torch.where(matched, gt_index, 0)
    return Assignment(torch.where(matched, gt_labels[gt_index], 0), gt_index, matched)


def closest_anchors(anchors: Tensor, level_sizes: Sequence[int], gt_boxes: Tensor, topk: int) -> Tensor:
    """Indices (G, K) of the `topk` anchors of each level whose centres are closest to that of each box.

    Of equal distances the CPU takes those that `Tensor.topk` takes there, as the original does, so that its losses can
    be compared; other devices take the lowest index.
    """
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    gt_centers = (gt_boxes[:, :2] + gt_boxes[:, 2:]) / 2
    found, first = [], 0
    for size in level_sizes:
        distance = (gt_centers[:, None] - centers[first : first + size]).square().sum(-1).sqrt().float()
        if distance.device.type != "cpu":
            # The bits of a non-negative float order like the float. With the index below them no two keys are equal,
            # so the choice does not depend on how a device breaks ties.
            distance = distance.view(torch.int32).to(torch.int64) << 32 | torch.arange(size, device=anchors.device)
        found.append(first + distance.topk(min(topk, size), dim=1, largest=False).indices)
        first += size
    return torch.cat(found, dim=1)


def _passes_threshold(iou: Tensor) -> Tensor:
    if iou.shape[1] < 2:  # one candidate has no deviation, and so no threshold to pass
        return torch.zeros_like(iou, dtype=torch.bool)
    return iou >= (iou.mean(dim=1) + iou.std(dim=1))[:, None]


def _iou_with_boxes(anchors: Tensor, gt_boxes: Tensor) -> Tensor:
    """IoU (G, K) with inclusive pixels between anchors (G, K, 4) and the box (G, 4) of their row."""
    boxes = gt_boxes[:, None]
    sides = (
        torch.minimum(anchors[..., 2:], boxes[..., 2:]) - torch.maximum(anchors[..., :2], boxes[..., :2]) + 1
    ).clamp(min=0)
    intersection = sides.prod(-1)
    area = (anchors[..., 2:] - anchors[..., :2] + 1).prod(-1)
    box_area = (boxes[..., 2:] - boxes[..., :2] + 1).prod(-1)
    return intersection / (area + box_area - intersection)


def _center_is_inside(anchors: Tensor, gt_boxes: Tensor) -> Tensor:
    """Whether the centres of anchors (G, K, 4) lie inside the box (G, 4) of their row -> (G, K)."""
    centers = (anchors[..., :2] + anchors[..., 2:]) / 2
    boxes = gt_boxes[:, None]
    margins = torch.cat((centers - boxes[..., :2], boxes[..., 2:] - centers), dim=-1)
    return margins.amin(-1) > MIN_INSIDE
