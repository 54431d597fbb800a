"""From scores at every location to the final boxes: threshold, best per level, decoding, suppression, cut.

All shapes are fixed and nothing waits for the device until `to_box_lists`: places without a candidate hold EMPTY.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from maskrcnn_benchmark.modeling.postprocess.token_scores import to_device
from maskrcnn_benchmark.ops.nms import nms_keep_mask
from maskrcnn_benchmark.structures.bounding_box import BoxList

EMPTY = -1.0  # below every score


class Candidates(NamedTuple):
    """The best boxes of a batch: boxes (B, K, 4) xyxy, scores (B, K) or EMPTY, labels (B, K) int64."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Detections(NamedTuple):
    """What remains of a batch: boxes (B, K, 4) xyxy, scores (B, K) and labels (B, K) int64 by descending score.

    Only the first counts (B,) int64 places of an image mean anything.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    counts: Tensor


def select_on_level(
    class_scores: Tensor,
    centerness: Tensor,
    box_codes: Tensor,
    anchors: Tensor,
    labels: Tensor,
    decode: Callable[[Tensor, Tensor], Tensor],
    *,
    threshold: float,
    top_n: int,
) -> Candidates:
    """The best pairs of location and class on one level.

    A pair is a candidate if its class score exceeds the threshold; candidates are ranked by class score times
    centerness, and the square root of that is their final score.

    Args:
        class_scores: (B, N, C) probabilities.
        centerness: (B, N) probabilities.
        box_codes: (B, N, 4) regression output.
        anchors: (N, 4) xyxy.
        labels: (S, C) label of each column, S = B or 1.
        decode: (codes, anchors) -> boxes, all (B, K, 4).
        threshold: on the class score.
        top_n: at most that many pairs of an image.

    Returns: Candidates with K = min(top_n, N * C), in the order of locations and columns.
    """
    num_classes = class_scores.shape[-1]
    ranking = torch.where(class_scores > threshold, class_scores * centerness[..., None], EMPTY).flatten(1)
    scores, index = best_in_order(ranking, top_n)
    location = index // max(num_classes, 1)
    column = index - location * num_classes
    return make_candidates(scores, location, column, box_codes, anchors, labels, decode)


def best_in_order(ranking: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The largest values of the last dimension of (..., M), at most `number`, and their ascending indices."""
    index = ranking.topk(min(number, ranking.shape[-1]), sorted=False).indices.sort().values
    return ranking.gather(-1, index), index


def make_candidates(
    ranking: Tensor,
    location: Tensor,
    column: Tensor,
    box_codes: Tensor,
    anchors: Tensor,
    labels: Tensor,
    decode: Callable[[Tensor, Tensor], Tensor],
) -> Candidates:
    """Decodes chosen pairs: ranking, location and column (B, K), the rest as in `select_on_level`."""
    codes = box_codes.gather(1, location[..., None].expand(-1, -1, 4))
    boxes = decode(codes, anchors[location])
    scores = torch.where(ranking >= 0, ranking.clamp(min=0).sqrt(), EMPTY)
    return Candidates(boxes, scores, labels.expand(len(scores), -1).gather(1, column))


def merge_levels(levels: Sequence[Candidates], image_sizes: Sequence[tuple[int, int]], min_size: float) -> Candidates:
    """Joins levels and does what `clip_and_sort` does, for images of size (height, width)."""
    boxes, scores, labels = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
    limits = torch.tensor([[width - 1, height - 1] for height, width in image_sizes], dtype=boxes.dtype)
    return clip_and_sort(Candidates(boxes, scores, labels), to_device(limits, boxes.device), min_size)


def clip_and_sort(candidates: Candidates, limits: Tensor, min_size: float) -> Candidates:
    """Clips to the images and sorts by descending score, equal ones in their order.

    Boxes whose inclusive sides are below `min_size` lose their score. limits (B, 2): the largest x and y.
    """
    boxes, scores, labels = candidates
    boxes = torch.minimum(boxes.clamp(min=0), limits.repeat(1, 2)[:, None])
    sides = boxes[..., 2:] - boxes[..., :2] + 1
    scores = scores.masked_fill((sides < min_size).any(-1), EMPTY)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return Candidates(boxes.gather(1, order[..., None].expand(-1, -1, 4)), scores, labels.gather(1, order))


def suppress_and_cut(candidates: Candidates, *, nms_threshold: float, max_detections: int) -> Detections:
    """Suppression within labels and the cut to the best detections.

    Args:
        candidates: sorted by descending score, as `clip_and_sort` returns them.
        nms_threshold: a box is dropped if its IoU with a better one of its label is larger; 0 or less keeps all.
        max_detections: that many remain, more only where scores equal that of the last; 0 or less keeps all.
    """
    boxes, scores, labels = candidates
    places = torch.arange(scores.shape[1], device=scores.device)
    counts = (scores >= 0).sum(dim=1)
    if nms_threshold > 0:
        keep = nms_keep_mask(boxes, labels, counts, nms_threshold)
    else:
        keep = places < counts[:, None]
    rank = keep.cumsum(dim=1)
    if 0 < max_detections < scores.shape[1]:
        last = scores.masked_fill(~keep | (rank > max_detections), torch.inf).amin(dim=1, keepdim=True)
        keep = keep & (scores >= last)
    # The cut only takes from the end, so the rank is still the place in the result; the rest goes behind it.
    target = torch.where(keep, rank - 1, len(places))
    order = torch.zeros(len(scores), len(places) + 1, dtype=torch.int64, device=scores.device)
    order = order.scatter_(1, target, places.expand(len(scores), -1))[:, :-1]
    boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    return Detections(boxes, scores.gather(1, order), labels.gather(1, order), keep.sum(dim=1))


def to_box_lists(
    detections: Detections | tuple[Tensor, ...],
    image_sizes: Sequence[tuple[int, int]],
    device: torch.device | str | None = None,
) -> list[BoxList]:
    """Detections of images of size (height, width) as box lists with the fields `labels` and `scores`.

    This is where the host waits for the device. A `device` to send the results to costs no more than that.
    """
    *parts, counts = detections
    numbers = counts.tolist()
    if device is not None:
        most = max(numbers, default=0)
        parts = [part[:, :most].to(device) for part in parts]
    results = []
    for number, (height, width), boxes, scores, labels in zip(numbers, image_sizes, *parts, strict=True):
        result = BoxList(boxes[:number], (int(width), int(height)), mode="xyxy")
        result.add_field("labels", labels[:number])
        result.add_field("scores", scores[:number])
        results.append(result)
    return results
