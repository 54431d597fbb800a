"""Losses of the dense vision-language head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn_benchmark.layers import SigmoidFocalLoss, TokenSigmoidFocalLoss
from maskrcnn_benchmark.modeling.assigners.atss import atss_assign
from maskrcnn_benchmark.modeling.losses.centerness import centerness_targets
from maskrcnn_benchmark.modeling.losses.contrastive import contrastive_align_loss
from maskrcnn_benchmark.modeling.losses.iou import giou_losses
from maskrcnn_benchmark.modeling.losses.shallow_contrastive import (
    NO_BOX_LABEL,
    ShallowSettings,
    choose_anchors,
    gather_with_gradient,
    original_labels,
    pair_matrix,
    pool_anchors,
    shallow_contrastive_loss,
    token_labels,
)
from maskrcnn_benchmark.modeling.rpn.inference import locations_first
from maskrcnn_benchmark.modeling.rpn.span_tokens import SpanTokens
from maskrcnn_benchmark.modeling.rpn.targets import Normalizers, Positives, Targets
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.text.tokenizer import build_tokenizer
from maskrcnn_benchmark.utils.comm import get_world_size, reduce_sum

MIN_WEIGHT = 1e-6


class ATSSLosses(NamedTuple):
    """The loss terms of a batch with their weights applied; None for those that are not in use."""

    cls: Tensor
    reg: Tensor
    centerness: Tensor
    token: Tensor | None
    contrastive_align: Tensor | None
    dot_product_token: Tensor | None
    shallow_contrastive: Tensor | None


class LossWeights(NamedTuple):
    """Factors of the loss terms."""

    reg: float = 2.0
    token: float = 1.0
    contrastive_align: float = 1.0
    dot_product_token: float = 1.0
    shallow_contrastive: float = 1.0


class ATSSLossComputation(nn.Module):
    """All losses on the outputs of the head.

    Terms are computed in float32, whatever autocast says, and divided by the number of positive anchors per rank.

    Args:
        box_coder: its `decode(codes, anchors)` gives boxes.
        weights: factors of the terms.
        gamma, alpha: focal loss of the class logits.
        token_gamma, token_alpha: focal loss of the token logits and the dot products.
        topk: candidates of the assignment per level and box.
        use_classification: train the class logits too; without, that loss is a plain 0.
        no_object_on_last_token: unmatched anchors have the last text position as their target. It counts only where
            the caption fills all positions; then that token, [SEP], becomes positive for all unmatched anchors, as in
            the original.
        span_tokens: finds the tokens of the phrases of each box; the contrastive losses need it.
        shallow: settings of the shallow contrastive loss, None for none.
    """

    def __init__(
        self,
        box_coder,
        *,
        weights: LossWeights | None = None,
        gamma: float = 2.0,
        alpha: float = 0.25,
        token_gamma: float = 2.0,
        token_alpha: float = 0.25,
        topk: int = 9,
        use_classification: bool = False,
        no_object_on_last_token: bool = True,
        span_tokens: SpanTokens | None = None,
        shallow: ShallowSettings | None = None,
    ):
        super().__init__()
        self.box_coder = box_coder
        self.weights = weights or LossWeights()
        self.cls_loss_func = SigmoidFocalLoss(gamma, alpha)
        self.centerness_loss_func = nn.BCEWithLogitsLoss(reduction="none")
        self.token_loss_func = TokenSigmoidFocalLoss(token_alpha, token_gamma)
        self.topk = topk
        self.use_classification = use_classification
        self.no_object_on_last_token = no_object_on_last_token
        self.normalizers: Normalizers | None = None
        self.span_tokens = span_tokens
        self.shallow = shallow
        if shallow is not None:
            self.shallow_contrastive_projection_image = nn.Linear(shallow.image_dim, shallow.hidden_dim)
            self.shallow_contrastive_projection_text = nn.Linear(shallow.text_dim, shallow.hidden_dim)
            self.shallow_log_scale = nn.Parameter(torch.tensor([shallow.log_scale]))
            if shallow.source == "fpn":
                for layer in (self.shallow_contrastive_projection_image, self.shallow_contrastive_projection_text):
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.zeros_(layer.bias)

    def forward(
        self,
        box_cls: Sequence[Tensor] | None,
        box_regression: Sequence[Tensor],
        centerness: Sequence[Tensor],
        targets: Sequence[BoxList],
        anchors: Sequence[Sequence[BoxList]],
        captions: Sequence[str] | None = None,
        positive_map: Tensor | None = None,
        token_logits: Sequence[Tensor] | None = None,
        proj_tokens: Tensor | None = None,
        contrastive_logits: Sequence[Tensor] | None = None,
        dot_product_logits: Sequence[Tensor] | None = None,
        text_masks: Tensor | None = None,
        shallow_img_emb_feats: Sequence[Tensor] | Tensor | None = None,
    ) -> ATSSLosses:
        """The losses of a batch.

        Args:
            box_cls: per level (B, C A, H, W) class logits; may be None unless they are trained.
            box_regression, centerness: per level (B, 4 A, H, W) and (B, A, H, W).
            targets: per image a BoxList with `labels`, possibly without boxes; with a contrastive loss also
                `tokens_positive`, the character spans of each box.
            anchors: per image, per level; the same grid for all images.
            captions: strings, for the contrastive losses.
            positive_map: (R, T') whether a text position describes a box, images one after another.
            token_logits: per level (B, T A, H, W).
            proj_tokens: (B, T, D) text features for the shallow loss.
            contrastive_logits, dot_product_logits: per level (B, H W A, T).
            text_masks: (B, T), larger than 0 for words; for the token logits it may end with the longest caption.
            shallow_img_emb_feats: per level (B, H W A, C), or the map (B, C, H, W) of stride 16.

        Raises: ValueError if an input that a loss needs is missing or of another size.
        """
        device = box_regression[0].device
        with torch.autocast(device.type, enabled=False):
            sizes = [len(level) for level in anchors[0]]
            grid = torch.cat([level.bbox for level in anchors[0]])
            assigned = self.prepare_targets(targets, anchors)
            positives, boxes, weight = self._positives(assigned, grid, len(sizes))
            num_positives, sum_weights = self.normalizers or _mean_over_ranks(positives, weight)

            codes = positives.look_up(_cat_levels(box_regression, sizes))
            predicted = self.box_coder.decode(codes, grid[positives.index % len(grid)])
            center_logits = positives.look_up(_cat_levels(centerness, sizes)[..., 0])
            counts = positives.is_real.float()
            reg_weight = torch.where(weight.sum() > 0, weight, counts)
            loss_reg = (giou_losses(predicted, boxes) * reg_weight).sum() / sum_weights
            loss_centerness = (self.centerness_loss_func(center_logits, weight) * counts).sum()
            loss_cls = codes.new_zeros(())
            if self.use_classification:
                loss_cls = self._classification_loss(box_cls, sizes, assigned.labels) / num_positives

            token = dot_product = contrastive = shallow = None
            if token_logits is not None:
                logits = _cat_levels(token_logits, sizes)
                token = self._token_loss(logits, assigned, positive_map, text_masks) / num_positives
            if dot_product_logits is not None:
                logits = torch.cat([level.float() for level in dot_product_logits], dim=1)
                dot_product = self._token_loss(logits, assigned, positive_map, text_masks) / num_positives
            if contrastive_logits is not None:
                logits = torch.cat([level.float() for level in contrastive_logits], dim=1)
                pairs = self._phrase_pairs(assigned, captions, targets, logits.shape[-1])
                contrastive = contrastive_align_loss(logits, pairs) / num_positives
            if self.shallow is not None:
                shallow = self._shallow_loss(
                    assigned, grid, targets, captions, proj_tokens, text_masks, shallow_img_emb_feats
                )
                shallow = shallow / num_positives

            weights = self.weights
            return ATSSLosses(
                cls=loss_cls,
                reg=weights.reg * loss_reg,
                centerness=loss_centerness / num_positives,
                token=_times(weights.token, token),
                contrastive_align=_times(weights.contrastive_align, contrastive),
                dot_product_token=_times(weights.dot_product_token, dot_product),
                shallow_contrastive=_times(weights.shallow_contrastive, shallow),
            )

    @torch.no_grad()
    def measure_normalizers(self, targets: Sequence[BoxList], anchors: Sequence[Sequence[BoxList]]) -> Normalizers:
        """What the terms are divided by on a batch; they follow from boxes and anchors alone.

        Attribute `normalizers` is used instead while it is set.
        """
        grid = torch.cat([level.bbox for level in anchors[0]])
        positives, _, weight = self._positives(self.prepare_targets(targets, anchors), grid, len(anchors[0]))
        return _mean_over_ranks(positives, weight)

    def _positives(self, assigned: Targets, grid: Tensor, num_levels: int) -> tuple[Positives, Tensor, Tensor]:
        """The P anchors that train boxes, their boxes (P, 4), and their centerness in them (P,), 0 where not real."""
        most = len(assigned.boxes) * self.topk * num_levels  # the candidates of the assignment
        positives = Positives.find(assigned.labels > 0, most)  # a box of label 0 trains the words only
        rows = assigned.box_rows.flatten()[positives.index].clamp(max=max(len(assigned.boxes) - 1, 0))
        boxes = assigned.boxes[rows]
        weight = centerness_targets(grid[positives.index % len(grid)], boxes)
        return positives, boxes, torch.where(positives.is_real, weight, 0)

    @torch.no_grad()
    def prepare_targets(self, targets: Sequence[BoxList], anchors: Sequence[Sequence[BoxList]]) -> Targets:
        """Assigns the anchors of every image to its boxes."""
        sizes = [len(level) for level in anchors[0]]
        grid = torch.cat([level.bbox for level in anchors[0]])
        all_boxes = [target.convert("xyxy").bbox.to(grid) for target in targets]
        total, first = sum(len(boxes) for boxes in all_boxes), 0
        labels, rows = [], []
        for target, boxes in zip(targets, all_boxes, strict=True):
            gt_labels = target.get_field("labels").to(grid.device, torch.int64)
            assignment = atss_assign(grid, sizes, boxes, gt_labels, self.topk)
            labels.append(assignment.labels)
            rows.append(torch.where(assignment.is_positive, first + assignment.gt_index, total))
            first += len(boxes)
        return Targets(torch.stack(labels), torch.stack(rows), torch.cat(all_boxes))

    def token_targets(self, assigned: Targets, positive_map: Tensor | None, num_tokens: int) -> Tensor:
        """Text positions (B, N, T) of every anchor: those of its box, or the "no object" target.

        A map that is wider than the text loses its last columns, which are padding then.
        """
        if not isinstance(positive_map, Tensor):
            raise ValueError(
                "the token losses need a positive_map, a tensor (boxes of the batch, text positions), "
                f"got {type(positive_map).__name__}"
            )
        if positive_map.dim() != 2 or len(positive_map) != len(assigned.boxes):
            raise ValueError(
                f"positive_map must have a row for each of the {len(assigned.boxes)} boxes of the batch, "
                f"got the shape {tuple(positive_map.shape)}"
            )
        if positive_map.shape[1] < num_tokens:
            raise ValueError(f"positive_map has {positive_map.shape[1]} columns, but the text {num_tokens} positions")
        positive_map = positive_map.to(assigned.boxes.device, torch.float32)
        no_object = positive_map.new_zeros(positive_map.shape[1])
        if self.no_object_on_last_token:
            no_object[-1] = 1.0
        return assigned.look_up(positive_map[:, :num_tokens], no_object[:num_tokens])

    def _classification_loss(self, box_cls: Sequence[Tensor] | None, sizes: list[int], labels: Tensor) -> Tensor:
        if box_cls is None:
            raise ValueError("the classification loss needs class logits, and the head gave none")
        logits = _cat_levels(box_cls, sizes).flatten(0, 1)
        return self.cls_loss_func(logits, labels.flatten())

    def _token_loss(
        self, logits: Tensor, assigned: Targets, positive_map: Tensor | None, text_masks: Tensor | None
    ) -> Tensor:
        targets = self.token_targets(assigned, positive_map, logits.shape[-1])
        if text_masks is not None:  # positions beyond the text are padding
            text_masks = F.pad(text_masks, (0, max(logits.shape[-1] - text_masks.shape[-1], 0)))
        return self.token_loss_func(logits, targets, text_masks)

    def _phrase_pairs(
        self, assigned: Targets, captions: Sequence[str] | None, targets: Sequence[BoxList], num_tokens: int
    ) -> Tensor:
        """(B, N, T) bool: which text positions belong to the phrases of the box of an anchor."""
        if self.span_tokens is None:
            raise ValueError("the contrastive losses need span_tokens, which maps phrases to tokens")
        table = self.span_tokens(captions, targets, num_tokens).to(assigned.boxes.device)
        return assigned.look_up(table, table.new_zeros(num_tokens))

    def _shallow_loss(
        self,
        assigned: Targets,
        grid: Tensor,
        targets: Sequence[BoxList],
        captions: Sequence[str] | None,
        proj_tokens: Tensor | None,
        text_masks: Tensor | None,
        features: Sequence[Tensor] | Tensor | None,
    ) -> Tensor:
        if proj_tokens is None or text_masks is None or features is None:
            raise ValueError("the shallow contrastive loss needs text features, text masks and image features")
        settings = self.shallow
        chosen = choose_anchors(assigned.is_positive, settings.max_positives, pad_with_zeros=settings.pad_with_zeros)
        images = torch.arange(len(chosen.index), device=grid.device)[:, None]
        if settings.source == "fpn":
            regions = torch.cat([level.float() for level in features], dim=1)[images, chosen.index]
        else:
            regions = pool_anchors(features.float(), grid[chosen.index])
        regions = regions * chosen.is_filled[..., None]
        image_embeddings = F.normalize(self.shallow_contrastive_projection_image(regions), dim=-1)
        text_embeddings = F.normalize(self.shallow_contrastive_projection_text(proj_tokens.float()), dim=-1)

        num_tokens = proj_tokens.shape[1]
        own_pairs = self._phrase_pairs(assigned, captions, targets, num_tokens)[images, chosen.index]
        own_pairs = own_pairs & chosen.is_filled[..., None]
        box_labels = assigned.look_up(
            torch.cat([original_labels(target) for target in targets]).to(grid), grid.new_full((), NO_BOX_LABEL)
        )
        box_labels = box_labels[images, chosen.index].masked_fill(~chosen.is_filled, NO_BOX_LABEL)
        labels_of_tokens = torch.stack([token_labels(target, num_tokens) for target in targets]).to(grid)
        pairs = pair_matrix(box_labels, gather_with_gradient(labels_of_tokens), own_pairs)
        return shallow_contrastive_loss(
            image_embeddings, text_embeddings, chosen.is_filled, text_masks, pairs, self.shallow_log_scale.exp()
        )


def _cat_levels(levels: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Per level (B, A K, H, W) -> (B, N, K) float32."""
    return torch.cat([locations_first(level, n).float() for level, n in zip(levels, sizes, strict=True)], dim=1)


def _mean_over_ranks(positives: Positives, weight: Tensor) -> Normalizers:
    """Number of positives (at least 1) and sum of weights, as means over ranks; one collective for both."""
    count = positives.is_real.sum().to(weight.dtype)
    sums = reduce_sum(torch.stack((count, weight.sum()))) / get_world_size()
    return Normalizers(sums[0].clamp(min=1.0), sums[1].clamp(min=MIN_WEIGHT))


def _times(weight: float, loss: Tensor | None) -> Tensor | None:
    return None if loss is None else weight * loss


def make_atss_loss_evaluator(cfg, box_coder) -> ATSSLossComputation:
    """The losses of the configuration."""
    head, fuse, atss, rpn = cfg.MODEL.DYHEAD, cfg.MODEL.DYHEAD.FUSE_CONFIG, cfg.MODEL.ATSS, cfg.MODEL.RPN
    language = cfg.MODEL.LANGUAGE_BACKBONE
    anchors_per_location = len(rpn.ASPECT_RATIOS) * rpn.SCALES_PER_OCTAVE
    shallow = None
    if fuse.USE_SHALLOW_CONTRASTIVE_LOSS or fuse.USE_BACKBONE_SHALLOW_CONTRASTIVE_LOSS:
        if fuse.USE_CONTRASTIVE_ALIGN_LOSS:
            raise ValueError(
                "USE_CONTRASTIVE_ALIGN_LOSS hands on projected text, which the shallow contrastive losses cannot read: "
                "switch one of them off"
            )
        from_body = fuse.USE_BACKBONE_SHALLOW_CONTRASTIVE_LOSS
        shallow = ShallowSettings(
            source="body" if from_body else "fpn",
            image_dim=cfg.MODEL.SWINT.OUT_CHANNELS[-2] if from_body else head.CHANNELS * anchors_per_location,
            text_dim=language.LANG_DIM,
            hidden_dim=fuse.SHALLOW_CONTRASTIVE_HIDDEN_DIM,
            log_scale=head.SHALLOW_LOG_SCALE,
            max_positives=fuse.SHALLOW_MAX_POSITIVE_ANCHORS,
            pad_with_zeros=fuse.USE_SHALLOW_ZERO_PADS,
        )
    span_tokens = None
    if fuse.USE_CONTRASTIVE_ALIGN_LOSS or shallow is not None:
        max_tokens = language.MAX_QUERY_LEN if language.TOKENIZER_TYPE == "clip" else None
        span_tokens = SpanTokens(build_tokenizer(language.TOKENIZER_TYPE), max_tokens)
    return ATSSLossComputation(
        box_coder,
        weights=LossWeights(
            reg=atss.REG_LOSS_WEIGHT,
            token=fuse.TOKEN_LOSS_WEIGHT,
            contrastive_align=fuse.CONTRASTIVE_ALIGN_LOSS_WEIGHT,
            dot_product_token=fuse.DOT_PRODUCT_TOKEN_LOSS_WEIGHT,
            shallow_contrastive=fuse.SHALLOW_CONTRASTIVE_LOSS_WEIGHT,
        ),
        gamma=cfg.MODEL.FOCAL.LOSS_GAMMA,
        alpha=cfg.MODEL.FOCAL.LOSS_ALPHA,
        token_gamma=fuse.TOKEN_GAMMA,
        token_alpha=fuse.TOKEN_ALPHA,
        topk=atss.TOPK * anchors_per_location,
        use_classification=fuse.USE_CLASSIFICATION_LOSS,
        no_object_on_last_token=fuse.NO_OBJECT_ON_LAST_TOKEN,
        span_tokens=span_tokens,
        shallow=shallow,
    )
