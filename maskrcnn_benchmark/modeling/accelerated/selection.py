"""From the raw predictions of a batch to its detections, with fixed shapes and without waiting for the device.

The same choice as in `postprocess.select`, with all levels at once and without the scores of all pairs of location and
class: the best pairs of a level lie at the locations whose best pairs are best.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from maskrcnn_benchmark.modeling.postprocess.select import (
    Detections,
    best_in_order,
    clip_and_sort,
    make_candidates,
    suppress_and_cut,
    to_box_lists,
)
from maskrcnn_benchmark.modeling.rpn.inference import ATSSPostProcessor
from maskrcnn_benchmark.ops import library
from maskrcnn_benchmark.ops.kernels.candidates import rank_locations, rank_pairs

from .pyramid import PyramidShape

__all__ = ["SelectionSettings", "can_be_recorded", "select_detections", "to_box_lists"]


class SelectionSettings(NamedTuple):
    """What an `ATSSPostProcessor` was made with; its attributes of these names say more."""

    decode: Callable[[Tensor, Tensor], Tensor]
    pre_nms_threshold: float
    pre_nms_top_n: int
    nms_threshold: float
    max_detections: int
    min_size: float

    @classmethod
    def of(cls, post_processor: ATSSPostProcessor) -> "SelectionSettings":
        """The settings of a post-processor that scores a class by the mean of its tokens."""
        is_raw = post_processor.is_raw
        return cls(
            post_processor.box_coder.decode,
            post_processor.pre_nms_threshold,
            post_processor.pre_nms_top_n,
            0.0 if is_raw else post_processor.nms_threshold,
            0 if is_raw else post_processor.max_detections,
            post_processor.min_size,
        )


def can_be_recorded() -> bool:
    """Whether a CUDA graph can hold a selection: without a compiled kernel, suppression waits for the device."""
    rows = [row for row in library.backends() if row.operator == "nms_keep_mask" and row.device == "cuda"]
    return all(row.served_by == library.COMPILED for row in rows)


def select_detections(
    word_logits: Tensor,
    box_codes: Tensor,
    centerness: Tensor,
    anchors: Tensor,
    shape: PyramidShape,
    matrix: Tensor,
    labels: Tensor,
    limits: Tensor,
    settings: SelectionSettings,
) -> Detections:
    """Detections of every image, equal to those of the plain post-processor.

    Args:
        word_logits: (B, N, T), all levels of the pyramid.
        box_codes, centerness: (B, N, 4) and (B, N), or (1, N, 4) and (1, N) for all B texts.
        anchors: (N, 4) xyxy.
        shape: where the levels lie in N.
        matrix: (S, T, C) how often a token occurs in a class, or any multiple of that; S = B, or 1 for all images.
            Columns without tokens are padding and never selected.
        labels: (S, C) int64.
        limits: (B, 2) largest x and y in the images.
        settings: thresholds and numbers.
    """
    top_n, threshold = settings.pre_nms_top_n, settings.pre_nms_threshold
    locations = best_locations(word_logits, centerness, matrix, shape, threshold, top_n)  # (B, L, P)
    ranking = rank_pairs(word_logits, centerness, matrix, threshold, locations.flatten(1))
    num_classes = ranking.shape[-1]
    ranking, index = best_in_order(ranking.view(*locations.shape[:2], -1), top_n)  # (B, L, K)
    row = index // num_classes
    candidates = make_candidates(
        ranking.flatten(1),
        locations.gather(2, row).clamp(min=0).flatten(1),
        (index - row * num_classes).flatten(1),
        box_codes.float().expand(len(word_logits), -1, -1),
        anchors,
        labels,
        settings.decode,
    )
    candidates = clip_and_sort(candidates, limits, settings.min_size)
    return suppress_and_cut(candidates, nms_threshold=settings.nms_threshold, max_detections=settings.max_detections)


def best_locations(
    word_logits: Tensor, centerness: Tensor, matrix: Tensor, shape: PyramidShape, threshold: float, number: int
) -> Tensor:
    """The locations with the best pairs of each level, ascending: (B, L, P) int64, -1 where a level has fewer than P.

    P is `number`, or the locations of the largest level if they are fewer. The best P pairs of a level are at these
    locations: P locations have a pair at least as good as the worst of them.
    """
    batch, device = len(word_logits), word_logits.device
    number = min(number, max(shape.lengths))
    crowded = [level for level, length in enumerate(shape.lengths) if length > number]
    places = torch.arange(number, device=device)
    chosen = [
        torch.where(places < length, places + start, -1).expand(batch, -1)
        for start, length in zip(shape.starts, shape.lengths, strict=True)
    ]
    if crowded:
        width = max(shape.lengths)
        ranks = [
            rank_locations(word_logits[:, part], centerness[:, part], matrix, threshold, width)
            for part in (slice(shape.starts[i], shape.starts[i] + shape.lengths[i]) for i in crowded)
        ]
        _, best = best_in_order(torch.stack(ranks, dim=1), number)
        for i, level in enumerate(crowded):
            chosen[level] = best[:, i] + shape.starts[level]
    return torch.stack(chosen, dim=1)
