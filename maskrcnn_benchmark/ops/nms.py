"""Non-maximum suppression with the pixel convention of the original: sides are x2 - x1 + 1.

Every function here compares strictly (a box goes if the overlap is *larger* than the threshold), breaks ties of the
score by the lower index, and gives the same result on every device. Overlaps are computed in float64. Sorting is left
to PyTorch; the operators suppress. Nothing here has gradients.
"""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor

from maskrcnn_benchmark.ops import library


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
    return _kept(boxes, scores, None, iou_threshold)


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
    if labels.is_floating_point():  # equal numbers, equal bits: adding zero takes the sign off -0
        labels = (labels.double() + 0.0).view(torch.int64)
    return _kept(boxes, scores, labels.long(), iou_threshold)


def nms_keep_mask(boxes: Tensor, labels: Tensor | None, counts: Tensor | None, iou_threshold: float) -> Tensor:
    """Greedy suppression in a batch of images, with fixed shapes and without waiting for the device.

    Args:
        boxes: (B, K, 4) xyxy with inclusive ends, of each image in descending order of their scores.
        labels: (B, K) int64: only boxes of equal labels suppress each other. None: all do.
        counts: (B,) int64: only the first so many boxes of an image are looked at. None: all are.
        iou_threshold: a box is dropped if its IoU with a kept box before it exceeds this.

    Returns: (B, K) bool, True for kept boxes and False from the count on.
    Raises: RuntimeError for shapes and dtypes that do not fit.
    """
    return _keep_mask(boxes, labels, counts, iou_threshold)


def soft_nms(
    boxes: Tensor, scores: Tensor, score_threshold: float = 0.001, sigma: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Gaussian soft suppression (arXiv:1704.04503): overlap lowers a score instead of dropping the box.

    Takes the best remaining box, multiplies the scores of the others by exp(-IoU^2 / sigma), drops those that fall
    below the threshold, and goes on. Boxes whose score is not a number are never taken.

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
    dtype = torch.promote_types(boxes.dtype, scores.dtype)
    order, lowered, count = _soft_nms(boxes.detach().to(dtype), scores.detach().to(dtype), score_threshold, sigma)
    number = int(count)
    return order[:number], lowered[:number].to(scores.dtype)


def _kept(boxes: Tensor, scores: Tensor, labels: Tensor | None, iou_threshold: float) -> Tensor:
    order = scores.argsort(descending=True, stable=True)
    ordered_labels = None if labels is None else labels[order][None]
    in_order = _keep_mask(boxes[order][None], ordered_labels, None, iou_threshold)[0]
    return torch.empty_like(in_order).scatter_(0, order, in_order).nonzero().squeeze(1)


def _check(boxes: Tensor, scores: Tensor) -> None:
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must have the shape (N, 4), got {tuple(boxes.shape)}")
    if scores.shape != boxes.shape[:1]:
        raise ValueError(f"scores must have the shape ({boxes.shape[0]},) of the boxes, got {tuple(scores.shape)}")


def _exclusive(boxes: Tensor) -> Tensor:
    """Moves the inclusive ends by one pixel, so that a side is the plain difference; float64."""
    boxes = boxes.to(torch.float64)
    return torch.cat((boxes[..., :2], boxes[..., 2:] + 1), dim=-1)


def _keep_mask_plain(boxes: Tensor, labels: Tensor | None, counts: Tensor | None, iou_threshold: float) -> Tensor:
    _check_batch(boxes, labels, counts)
    numbers = [boxes.shape[1]] * len(boxes) if counts is None else counts.clamp(min=0).tolist()
    keep = torch.zeros(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
    for image, number in enumerate(numbers):
        corners = _exclusive(boxes[image, :number])
        if labels is not None:
            corners = corners + _places(corners, labels[image, :number])[:, None]
        descending = torch.arange(len(corners), 0, -1, dtype=torch.float64, device=boxes.device)
        keep[image, torchvision.ops.nms(corners, descending, iou_threshold)] = True
    return keep


def _places(corners: Tensor, labels: Tensor) -> Tensor:
    """(N,) a shift for each label, so that boxes of different labels never meet.

    Shifts are multiples of a power of two beyond the finite coordinates, so that adding them in float64 leaves the
    sides of float32 boxes as they are.
    """
    extent = corners.abs().nan_to_num(0.0, posinf=0.0).amax() if corners.numel() else corners.new_zeros(())
    _, number = labels.unique(return_inverse=True)
    return number * torch.exp2(torch.ceil(torch.log2(2 * extent + 2)))


def _check_batch(boxes: Tensor, labels: Tensor | None, counts: Tensor | None) -> None:
    torch._check(
        boxes.dim() == 3 and boxes.shape[2] == 4,
        lambda: f"boxes must have the shape (B, K, 4), got {tuple(boxes.shape)}",
    )
    for name, tensor, shape in (("labels", labels, boxes.shape[:2]), ("counts", counts, boxes.shape[:1])):
        if tensor is not None:
            torch._check(
                tensor.shape == shape,
                lambda: f"{name} must have the shape {tuple(shape)}, got {tuple(tensor.shape)}",  # noqa: B023
            )
            torch._check(tensor.dtype == torch.int64, lambda: f"{name} must be int64, got {tensor.dtype}")  # noqa: B023


def _soft_nms_plain(
    boxes: Tensor, scores: Tensor, score_threshold: float, sigma: float
) -> tuple[Tensor, Tensor, Tensor]:
    corners = _exclusive(boxes)
    current = scores.to(torch.promote_types(scores.dtype, torch.float32))  # NaN once a box is taken or dropped
    order = torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
    lowered, count = torch.zeros_like(current), 0
    for count in range(len(scores) + 1):
        remaining = current.isnan().logical_not().nonzero().squeeze(1)
        if len(remaining) == 0:
            break
        best = remaining[current[remaining].argmax()]
        order[count], lowered[count] = best, current[best]
        overlap = torchvision.ops.box_iou(corners[best][None], corners)[0].to(current.dtype)
        current = torch.where(overlap > 0, current * torch.exp(-(overlap**2) / sigma), current)
        current = current.masked_fill(~(current >= score_threshold), torch.nan)
        current[best] = torch.nan
    return order, lowered.to(scores.dtype), torch.tensor([count], device=scores.device)


def _keep_mask_fake(boxes: Tensor, labels: Tensor | None, counts: Tensor | None, iou_threshold: float) -> Tensor:
    _check_batch(boxes, labels, counts)
    return boxes.new_empty(boxes.shape[:2], dtype=torch.bool)


def _soft_nms_fake(
    boxes: Tensor, scores: Tensor, score_threshold: float, sigma: float
) -> tuple[Tensor, Tensor, Tensor]:
    integers = scores.new_empty(scores.shape, dtype=torch.int64)
    return integers, torch.empty_like(scores), integers.new_empty(1)


_keep_mask = library.define(
    "nms_keep_mask(Tensor boxes, Tensor? labels, Tensor? counts, float iou_threshold) -> Tensor", _keep_mask_plain
)
_soft_nms = library.define(
    "soft_nms(Tensor boxes, Tensor scores, float score_threshold, float sigma) -> (Tensor, Tensor, Tensor)",
    _soft_nms_plain,
)
torch.library.register_fake(library.qualified(_keep_mask), _keep_mask_fake)
torch.library.register_fake(library.qualified(_soft_nms), _soft_nms_fake)
