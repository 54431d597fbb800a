"""From scores at every location to the final boxes: threshold, best per level, decoding, suppression, cut.

Up to the suppression all shapes are fixed and nothing waits for the device: places without a candidate hold EMPTY.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from maskrcnn_benchmark.modeling.postprocess.token_scores import to_device
from maskrcnn_benchmark.ops.nms import ml_nms
from maskrcnn_benchmark.structures.bounding_box import BoxList

EMPTY = -1.0  # below every score


class Candidates(NamedTuple):
    """The best boxes of a batch: boxes (B, K, 4) xyxy, scores (B, K) or EMPTY, labels (B, K) int64."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


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

    Returns: Candidates with K = min(top_n, N * C).
    """
    num_classes = class_scores.shape[-1]
    ranking = torch.where(class_scores > threshold, class_scores * centerness[..., None], EMPTY).flatten(1)
    scores, index = ranking.topk(min(top_n, ranking.shape[1]), dim=1, sorted=False)
    location = index // max(num_classes, 1)
    column = index - location * num_classes
    codes = box_codes.gather(1, location[..., None].expand(-1, -1, 4))
    boxes = decode(codes, anchors[location])
    scores = torch.where(scores >= 0, scores.clamp(min=0).sqrt(), EMPTY)
    return Candidates(boxes, scores, labels.expand(len(scores), -1).gather(1, column))


def merge_levels(levels: Sequence[Candidates], image_sizes: Sequence[tuple[int, int]], min_size: float) -> Candidates:
    """Joins levels, clips to the images of size (height, width), and sorts by descending score.

    Boxes whose inclusive sides are below `min_size` lose their score.
    """
    boxes, scores, labels = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
    limits = torch.tensor([[width - 1, height - 1] for height, width in image_sizes], dtype=boxes.dtype)
    limits = to_device(limits, boxes.device).repeat(1, 2)[:, None]
    boxes = torch.minimum(boxes.clamp(min=0), limits)
    sides = boxes[..., 2:] - boxes[..., :2] + 1
    scores = scores.masked_fill((sides < min_size).any(-1), EMPTY)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return Candidates(boxes.gather(1, order[..., None].expand(-1, -1, 4)), scores, labels.gather(1, order))


def finish(
    candidates: Candidates,
    image_sizes: Sequence[tuple[int, int]],
    *,
    nms_threshold: float,
    max_detections: int,
) -> list[BoxList]:
    """Suppression within labels and the cut to the best detections; here the sizes of the result become known.

    Args:
        candidates: sorted by descending score, as `merge_levels` returns them.
        image_sizes: (height, width).
        nms_threshold: a box is dropped if its IoU with a better one of its label is larger; 0 or less keeps all.
        max_detections: that many remain, more only where scores equal that of the last; 0 or less keeps all.

    Returns: per image a BoxList with `labels` and `scores`, by descending score.
    """
    counts = (candidates.scores >= 0).sum(dim=1).tolist()
    results = []
    for i, (count, (height, width)) in enumerate(zip(counts, image_sizes, strict=True)):
        boxes, scores, labels = (part[i, :count] for part in candidates)
        if nms_threshold > 0:
            keep = ml_nms(boxes, scores, labels, nms_threshold)
            boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        if 0 < max_detections < len(scores):
            keep = scores >= scores[max_detections - 1]
            boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        detections = BoxList(boxes, (int(width), int(height)), mode="xyxy")
        detections.add_field("labels", labels)
        detections.add_field("scores", scores)
        results.append(detections)
    return results
