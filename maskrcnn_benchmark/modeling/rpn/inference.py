"""Turns the outputs of the head into detections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.modeling.postprocess.select import (
    merge_levels,
    select_on_level,
    suppress_and_cut,
    to_box_lists,
)
from maskrcnn_benchmark.modeling.postprocess.token_scores import (
    PositiveMap,
    TokenMap,
    aggregate_token_scores,
    build_token_map,
    check_aggregation,
)
from maskrcnn_benchmark.structures.bounding_box import BoxList

PositiveMaps = PositiveMap | Sequence[PositiveMap] | TokenMap | None


class ATSSPostProcessor(nn.Module):
    """Detections from dense outputs.

    Args:
        box_coder: its `decode(codes, anchors)` gives boxes.
        pre_nms_threshold: least class score of a candidate, before the centerness.
        pre_nms_top_n: candidates per level and image.
        nms_threshold: largest IoU of two detections of one label; 0 or less: no suppression.
        max_detections: detections per image; 0 or less: no limit.
        min_size: least width and height in pixels.
        score_agg: how token scores make class scores: "MEAN", "MAX", "POWER" or "ONEHOT".
        is_raw: return all candidates, without suppression and limit, for joining several passes.
    """

    def __init__(
        self,
        box_coder,
        *,
        pre_nms_threshold: float = 0.05,
        pre_nms_top_n: int = 1000,
        nms_threshold: float = 0.6,
        max_detections: int = 100,
        min_size: float = 0.0,
        score_agg: str = "MEAN",
        is_raw: bool = False,
    ):
        super().__init__()
        self.box_coder = box_coder
        self.pre_nms_threshold, self.pre_nms_top_n = pre_nms_threshold, pre_nms_top_n
        self.nms_threshold, self.max_detections = nms_threshold, max_detections
        self.min_size = min_size
        self.score_agg = check_aggregation(score_agg)
        self.is_raw = is_raw

    @torch.no_grad()
    def forward(
        self,
        box_regression: Sequence[Tensor],
        centerness: Sequence[Tensor],
        anchors: Sequence[Sequence[BoxList]],
        box_cls: Sequence[Tensor] | None = None,
        token_logits: Sequence[Tensor] | None = None,
        dot_product_logits: Sequence[Tensor] | None = None,
        positive_map: PositiveMaps = None,
    ) -> list[BoxList]:
        """Detections of every image.

        Args:
            box_regression, centerness: per level (B, 4 A, H, W) and (B, A, H, W).
            anchors: per image, per level; the same grid for all images.
            box_cls: per level (B, C A, H, W) logits of labels 1..C; they count only without the next two.
            token_logits: per level (B, T A, H, W).
            dot_product_logits: per level (B, H W A, T); these rule if they are given.
            positive_map: label -> token positions, for all images, or one such dict per image. Without any label
                there are no detections. The labels need no configured number of classes.

        Returns: per image a BoxList of the size of the network input without padding, fields `labels` (int64) and
            `scores`, sorted by descending score.
        """
        grid = [level.bbox for level in anchors[0]]
        image_sizes = [(image[0].size[1], image[0].size[0]) for image in anchors]
        if dot_product_logits is not None:
            logits = dot_product_logits
        elif token_logits is not None:
            logits = [locations_first(level, len(a)) for level, a in zip(token_logits, grid, strict=True)]
        else:
            logits = None

        if logits is not None:
            token_map = self._token_map(positive_map, logits[0])
            labels = token_map.labels
        elif box_cls is not None:
            classes = [locations_first(level, len(a)) for level, a in zip(box_cls, grid, strict=True)]
            labels = torch.arange(1, classes[0].shape[-1] + 1, device=classes[0].device)[None]
        else:
            raise ValueError("detections need class logits, token logits or dot-product logits, and got none")

        levels = []
        for level, level_anchors in enumerate(grid):
            if logits is not None:
                scores = aggregate_token_scores(logits[level].float().sigmoid(), token_map, self.score_agg)
            else:
                scores = classes[level].float().sigmoid()
            levels.append(
                select_on_level(
                    scores,
                    locations_first(centerness[level], len(level_anchors)).float().sigmoid()[..., 0],
                    locations_first(box_regression[level], len(level_anchors)).float(),
                    level_anchors,
                    labels,
                    self.box_coder.decode,
                    threshold=self.pre_nms_threshold,
                    top_n=self.pre_nms_top_n,
                )
            )
        candidates = merge_levels(levels, image_sizes, self.min_size)
        detections = suppress_and_cut(
            candidates,
            nms_threshold=0 if self.is_raw else self.nms_threshold,
            max_detections=0 if self.is_raw else self.max_detections,
        )
        return to_box_lists(detections, image_sizes)

    def _token_map(self, positive_map: PositiveMaps, logits: Tensor) -> TokenMap:
        if not isinstance(positive_map, TokenMap):
            positive_map = build_token_map(
                positive_map, logits.shape[-1], aggregation=self.score_agg, device=logits.device
            )
        if len(positive_map.labels) not in (1, len(logits)):
            raise ValueError(f"{len(positive_map.labels)} positive maps for a batch of {len(logits)} images")
        return positive_map


def locations_first(level: Tensor, num_anchors: int) -> Tensor:
    """(B, A K, H, W) -> (B, H W A, K), where H W A is the number of anchors of the level."""
    batch, channels, height, width = level.shape
    per_cell = num_anchors // (height * width)
    return level.reshape(batch, per_cell, channels // per_cell, height, width).permute(0, 3, 4, 1, 2).flatten(1, 3)


def make_atss_postprocessor(cfg, box_coder, is_train: bool = False) -> ATSSPostProcessor:
    """The post-processor of the configuration; `is_train` takes the looser limits for proposals in training."""
    atss = cfg.MODEL.ATSS
    return ATSSPostProcessor(
        box_coder,
        pre_nms_threshold=atss.INFERENCE_TH_TRAIN if is_train else atss.INFERENCE_TH,
        pre_nms_top_n=atss.PRE_NMS_TOP_N_TRAIN if is_train else atss.PRE_NMS_TOP_N,
        nms_threshold=atss.NMS_TH,
        max_detections=atss.POST_NMS_TOP_N_TRAIN if is_train else atss.DETECTIONS_PER_IMG,
        score_agg=cfg.MODEL.DYHEAD.SCORE_AGG,
        is_raw=cfg.TEST.USE_MULTISCALE and not is_train,
    )


def convert_grounding_to_od_logits(
    logits: Tensor, box_cls: Tensor, positive_map: PositiveMap | None, score_agg: str = "MEAN"
) -> Tensor:
    """Token probabilities (B, N, T) -> class scores (B, N, C) with the C of box_cls (B, N, C), label j in column j - 1.

    C grows where the map has a larger label; with "ONEHOT" it is the number of labels.
    """
    return convert_grounding_to_od_logits_v2(logits, box_cls.shape[2], positive_map, score_agg, disable_minus_one=False)


def convert_grounding_to_od_logits_v2(
    logits: Tensor,
    num_class: int,
    positive_map: PositiveMap | None,
    score_agg: str = "MEAN",
    disable_minus_one: bool = True,
) -> Tensor:
    """Token probabilities (B, N, T) -> class scores (B, N, C), 0 for labels that the map lacks.

    C is `num_class`, or larger where the map needs it. Label j stands in column j - 1, with `disable_minus_one` in
    column j. "ONEHOT" returns the columns of the first tokens, as many as the map has labels, and no others.
    """
    if score_agg == "ONEHOT" and positive_map is not None:
        return logits[:, :, : len(positive_map)].float()
    token_map = build_token_map(positive_map, logits.shape[-1], aggregation=score_agg, device=logits.device)
    scores = aggregate_token_scores(logits, token_map, score_agg)
    columns = token_map.labels[0] - (0 if disable_minus_one else 1)
    width = max(num_class, int(columns.max()) + 1 if len(columns) else 0)
    return scores.new_zeros(*scores.shape[:2], width).index_copy_(2, columns, scores)
