"""The vision-language dynamic head: tower, predictions, and their training and selection (GLIP, arXiv:2112.03857)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.layers import Scale
from maskrcnn_benchmark.modeling.box_coder import CenterBoxCoder as BoxCoder
from maskrcnn_benchmark.modeling.fusion import BertEncoderLayer, TowerState, VLFuse
from maskrcnn_benchmark.modeling.fusion.resizer import FeatureResizer
from maskrcnn_benchmark.modeling.heads.alignment import (
    contrastive_align_logits,
    dot_product_logits,
    unit_words,
    word_biases,
)
from maskrcnn_benchmark.modeling.heads.box import prediction_conv, prior_bias, regress_boxes
from maskrcnn_benchmark.modeling.heads.dyconv import Conv3x3Norm, DyConv
from maskrcnn_benchmark.modeling.heads.mlm import BertLMPredictionHead
from maskrcnn_benchmark.modeling.heads.tower import build_tower
from maskrcnn_benchmark.modeling.language_backbone import TextFeatures, load_text_config
from maskrcnn_benchmark.modeling.losses.mlm import masked_word_loss
from maskrcnn_benchmark.modeling.registry import RPN_HEADS

from .anchor_generator import make_anchor_generator_complex
from .inference import make_atss_postprocessor
from .loss import make_atss_loss_evaluator

__all__ = ["BertEncoderLayer", "BoxCoder", "Conv3x3Norm", "DyConv", "VLDyHead", "VLDyHeadModule", "VLFuse"]

NUM_LEVELS = 5
MAX_PROMPT_ROWS = 1000


class HeadOutputs(NamedTuple):
    """Raw predictions of the head, one tensor per level in the lists; absent outputs are None.

    Attributes:
        cls_logits: (B, A (NUM_CLASSES - 1), H, W); bbox_reg: (B, 4 A, H, W) deltas; centerness: (B, A, H, W) logits.
        token_logits: (B, A T, H, W) from the image alone.
        proj_tokens: (B, T, D) text for the contrastive losses.
        contrastive_logits, dot_product_logits: (B, H W A, T).
        mlm_logits: (B, T, vocabulary).
        shallow_img_emb_feats: for the shallow contrastive loss: (B, H W, C) per level, or the (B, C, H, W) body map.
        fused_visual_features: tower outputs (B, C, H, W).
    """

    cls_logits: list[Tensor] | None
    bbox_reg: list[Tensor]
    centerness: list[Tensor]
    token_logits: list[Tensor] | None = None
    proj_tokens: Tensor | None = None
    contrastive_logits: list[Tensor] | None = None
    dot_product_logits: list[Tensor] | None = None
    mlm_logits: Tensor | None = None
    shallow_img_emb_feats: list[Tensor] | Tensor | None = None
    fused_visual_features: list[Tensor] | None = None


class VLDyHead(nn.Module):
    """Tower of fusion, text and dynamic convolution layers, and the prediction branches on its output.

    Args:
        tower: maps a TowerState to a TowerState.
        channels, text_dim: widths of the tower's image and text features.
        num_classes: number of columns of the class branch; num_anchors: anchors per location.
        use_dot_product: predict the agreement with every word; use_fused_text: with the text after the tower;
            clamp_dot_product: limit it to +-50000; log_scale: initial log temperature.
        contrastive_dim: width of the MDETR-style projections, 0 for none; num_tokens: width of the soft-token
            branch, 0 for none.
        mlm: (text width, vocabulary size, eps) of the masked-word branch, or None.
        shallow: "fpn" or "body" adds the inputs of the shallow contrastive loss, "" leaves them out.
        return_fused: hand out the tower's output.
    """

    def __init__(
        self,
        tower: nn.Sequential,
        *,
        channels: int = 256,
        text_dim: int = 768,
        num_classes: int = 80,
        num_anchors: int = 1,
        prior_prob: float = 0.01,
        log_scale: float = 0.0,
        use_dot_product: bool = True,
        use_fused_text: bool = True,
        clamp_dot_product: bool = False,
        contrastive_dim: int = 0,
        num_tokens: int = 0,
        mlm: tuple[int, int, float] | None = None,
        shallow: str = "",
        return_fused: bool = False,
    ):
        super().__init__()
        if use_dot_product and contrastive_dim:
            raise ValueError("USE_DOT_PRODUCT_TOKEN_LOSS and USE_CONTRASTIVE_ALIGN_LOSS exclude each other")
        if contrastive_dim and use_fused_text:
            raise ValueError("USE_CONTRASTIVE_ALIGN_LOSS needs USE_FUSED_FEATURES_DOT_PRODUCT False")
        if use_dot_product and num_anchors != 1:
            raise ValueError(f"the dot-product branch needs one anchor per location, got {num_anchors}")
        self.num_anchors, self.use_fused_text, self.shallow = num_anchors, use_fused_text, shallow
        self.use_dot_product, self.clamp_dot_product, self.return_fused = (
            use_dot_product,
            clamp_dot_product,
            return_fused,
        )
        self.dyhead_tower = tower
        self.cls_logits = prediction_conv(channels, num_anchors * num_classes, prior_bias(prior_prob))
        self.bbox_pred = prediction_conv(channels, num_anchors * 4)
        self.centerness = prediction_conv(channels, num_anchors)
        self.mlm_head = BertLMPredictionHead(*mlm) if mlm else None
        self.token_logits = (
            prediction_conv(channels, num_anchors * num_tokens, prior_bias(prior_prob)) if num_tokens else None
        )
        if contrastive_dim:
            self.contrastive_align_projection_image = prediction_conv(channels, num_anchors * contrastive_dim)
            self.contrastive_align_projection_text = nn.Linear(channels, contrastive_dim)
            self.log_scale = nn.Parameter(torch.tensor([log_scale]))
        else:
            self.contrastive_align_projection_image = None
        if use_dot_product:
            self.dot_product_projection_image = nn.Identity()
            self.dot_product_projection_text = nn.Linear(text_dim, num_anchors * channels)
            self.log_scale = nn.Parameter(torch.tensor([log_scale]))
            self.bias_lang = nn.Parameter(torch.zeros(text_dim))
            self.bias0 = nn.Parameter(torch.tensor([prior_bias(prior_prob)]))
        self.scales = nn.ModuleList(Scale(init_value=1.0) for _ in range(NUM_LEVELS))

    @classmethod
    def from_config(cls, cfg) -> "VLDyHead":
        head, fuse, language = cfg.MODEL.DYHEAD, cfg.MODEL.DYHEAD.FUSE_CONFIG, cfg.MODEL.LANGUAGE_BACKBONE
        rpn = cfg.MODEL.RPN
        mlm = None
        if fuse.MLM_LOSS:
            if language.MODEL_TYPE == "clip":
                mlm = (cfg.MODEL.CLIP.WIDTH, cfg.MODEL.CLIP.VOCAB_SIZE, 1e-12)
            else:
                text_config = load_text_config(language.MODEL_TYPE)
                mlm = (text_config.hidden_size, text_config.vocab_size, text_config.layer_norm_eps)
        shallow = "fpn" if fuse.USE_SHALLOW_CONTRASTIVE_LOSS else ""
        if fuse.USE_BACKBONE_SHALLOW_CONTRASTIVE_LOSS:
            shallow = "body"
        return cls(
            build_tower(cfg),
            channels=head.CHANNELS,
            text_dim=language.LANG_DIM,
            num_classes=head.NUM_CLASSES - 1,
            num_anchors=len(rpn.ASPECT_RATIOS) * rpn.SCALES_PER_OCTAVE,
            prior_prob=head.PRIOR_PROB,
            log_scale=head.LOG_SCALE,
            use_dot_product=fuse.USE_DOT_PRODUCT_TOKEN_LOSS,
            use_fused_text=fuse.USE_FUSED_FEATURES_DOT_PRODUCT,
            clamp_dot_product=fuse.CLAMP_DOT_PRODUCT,
            contrastive_dim=fuse.CONTRASTIVE_HIDDEN_DIM if fuse.USE_CONTRASTIVE_ALIGN_LOSS else 0,
            num_tokens=language.MAX_QUERY_LEN if fuse.USE_TOKEN_LOSS else 0,
            mlm=mlm,
            shallow=shallow,
            return_fused=rpn.RETURN_FUSED_FEATURES,
        )

    def _shallow_features(self, features, swint_feature_c4: Tensor | None) -> list[Tensor] | Tensor | None:
        if self.shallow == "body" and swint_feature_c4 is None:
            raise ValueError(
                "USE_BACKBONE_SHALLOW_CONTRASTIVE_LOSS needs a text-fused body (SWINT.VERSION 'vl' or 'v2_vl') and "
                "MODEL.FPN.RETURN_SWINT_FEATURE_BEFORE_FUSION True"
            )
        if self.shallow == "body":
            return swint_feature_c4
        return [level.flatten(2).transpose(1, 2) for level in features] if self.shallow else None

    @property
    def tower_reads_text(self) -> bool:
        """Whether the tower mixes image and text, so that its image features differ from text to text."""
        return any(not isinstance(module, DyConv) for module in self.dyhead_tower)

    def run_tower(self, features: Sequence[Tensor], text: TextFeatures) -> TowerState:
        """Levels (B, C, H_l, W_l) and text -> both after fusion and dynamic convolutions."""
        return self.dyhead_tower(TowerState(list(features), text.hidden, text.masks, text.aggregate))

    def predict(
        self, state: TowerState, embedding: Tensor | None = None, *, with_class_logits: bool = True
    ) -> HeadOutputs:
        """Tower output -> predictions but for the masked words. Arguments as in `forward`."""
        levels = state.visual
        outputs = HeadOutputs(
            cls_logits=[self.cls_logits(level) for level in levels] if with_class_logits else None,
            bbox_reg=regress_boxes(self.bbox_pred, self.scales, levels),
            centerness=[self.centerness(level) for level in levels],
            fused_visual_features=levels if self.return_fused else None,
        )
        if self.token_logits is not None:
            outputs = outputs._replace(token_logits=[self.token_logits(level) for level in levels])
        words = self.words(state, embedding)
        if self.contrastive_align_projection_image is not None:
            images = [self.contrastive_align_projection_image(level) for level in levels]
            logits = contrastive_align_logits(images, words, self.log_scale, self.num_anchors)
            outputs = outputs._replace(contrastive_logits=logits)
        if self.use_dot_product:
            logits = dot_product_logits(
                levels, *self.project_words(words), self.log_scale, clamp=self.clamp_dot_product
            )
            outputs = outputs._replace(dot_product_logits=logits)
        if self.shallow or self.contrastive_align_projection_image is not None:
            outputs = outputs._replace(proj_tokens=words)
        return outputs

    def _text(self, state: TowerState, embedding: Tensor | None) -> Tensor | None:
        return state.hidden if self.use_fused_text else embedding

    def words(self, state: TowerState, embedding: Tensor | None) -> Tensor | None:
        """Text (B, T, D) as the word branches read it: of unit length, for contrastive align projected before that."""
        text = self._text(state, embedding)
        if self.contrastive_align_projection_image is not None:
            return unit_words(self.contrastive_align_projection_text(text))
        return unit_words(text) if self.use_dot_product else text

    def forward(
        self,
        features: Sequence[Tensor],
        language_dict_features: TextFeatures | Mapping[str, Tensor | None],
        embedding: Tensor | None = None,
        swint_feature_c4: Tensor | None = None,
        *,
        with_class_logits: bool = True,
    ) -> HeadOutputs:
        """Levels (B, C, H_l, W_l) and text -> predictions.

        embedding: (B, T, D) text for the word branches where they do not use the fused text.
        swint_feature_c4: (B, C, H, W) body map for the shallow contrastive loss.
        with_class_logits: also run the class branch, which most configurations neither train nor select by.
        The masked words are predicted only where the text has labels for them.
        """
        state = self.run_tower(features, text := TextFeatures.of(language_dict_features))
        outputs = self.predict(state, embedding, with_class_logits=with_class_logits)
        if self.mlm_head is not None and text.mlm_labels is not None:
            outputs = outputs._replace(mlm_logits=self.mlm_head(self._text(state, embedding)))
        return outputs._replace(shallow_img_emb_feats=self._shallow_features(features, swint_feature_c4))

    def project_words(self, unit_text: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) text of unit length -> words in the space of the locations (B, T, C), and their biases (B, T)."""
        return self.dot_product_projection_text(unit_text / 2.0), word_biases(unit_text, self.bias_lang, self.bias0)


def prompt_table(width: int) -> nn.Linear:
    """The learnt prompt before it has learnt anything: a row of zeros for each position of the text, `width` wide."""
    table = nn.Linear(width, MAX_PROMPT_ROWS, bias=False)
    nn.init.zeros_(table.weight)
    return table


class VLDyHeadModule(nn.Module):
    """Head, anchors, losses and selection of detections.

    Args:
        head, loss_evaluator, box_selector_train, box_selector_test, anchor_generator: the parts. box_selector_train
            has the limits for proposals to a second stage; it is called by code that adds one.
        embedding: what the word branches read without fused text: "embedded", "resized" (with `resizer`), or "".
        resizer: projects the text for the contrastive align loss.
        prompt_dim: width of the learnt prompt offsets (prompt tuning), 0 for none.
        class_logits_in_training, class_logits_in_inference: whether the class branch is needed.
        mlm_loss_weight: of the masked-word loss.
    """

    def __init__(
        self,
        head: VLDyHead,
        loss_evaluator: nn.Module,
        box_selector_train: nn.Module,
        box_selector_test: nn.Module,
        anchor_generator: nn.Module,
        *,
        embedding: str,
        resizer: FeatureResizer | None = None,
        prompt_dim: int = 0,
        class_logits_in_training: bool,
        class_logits_in_inference: bool,
        mlm_loss_weight: float = 1.0,
    ):
        super().__init__()
        self.head = head
        self.loss_evaluator = loss_evaluator
        self.box_selector_train = box_selector_train
        self.box_selector_test = box_selector_test
        self.anchor_generator = anchor_generator
        self.embedding, self.resizer = embedding, resizer
        self.tunable_linear = prompt_table(prompt_dim) if prompt_dim else None
        self.class_logits_in_training = class_logits_in_training
        self.class_logits_in_inference = class_logits_in_inference
        self.mlm_loss_weight = mlm_loss_weight

    @classmethod
    def from_config(cls, cfg) -> "VLDyHeadModule":
        if not cfg.MODEL.RPN_ONLY:
            raise ValueError(
                "MODEL.RPN_ONLY False (a second stage of ROI heads) is not implemented; set MODEL.RPN_ONLY True"
            )
        fuse, language = cfg.MODEL.DYHEAD.FUSE_CONFIG, cfg.MODEL.LANGUAGE_BACKBONE
        coder = BoxCoder()
        resizer, embedding = None, "embedded" if fuse.USE_DOT_PRODUCT_TOKEN_LOSS else ""
        if fuse.USE_CONTRASTIVE_ALIGN_LOSS:
            embedding = "resized"
            resizer = FeatureResizer(language.LANG_DIM, fuse.JOINT_EMB_SIZE, fuse.JOINT_EMB_DROPOUT)
        return cls(
            VLDyHead.from_config(cfg),
            make_atss_loss_evaluator(cfg, coder),
            make_atss_postprocessor(cfg, coder, is_train=True),
            make_atss_postprocessor(cfg, coder),
            make_anchor_generator_complex(cfg),
            embedding=embedding,
            resizer=resizer,
            prompt_dim=language.LANG_DIM if fuse.ADD_LINEAR_LAYER else 0,
            class_logits_in_training=fuse.USE_CLASSIFICATION_LOSS,
            class_logits_in_inference=not fuse.USE_DOT_PRODUCT_TOKEN_LOSS,
            mlm_loss_weight=fuse.MLM_LOSS_COEF,
        )

    def prepare_text(self, text: TextFeatures) -> tuple[TextFeatures, Tensor | None]:
        """Adds the learnt prompt and selects the embedding of the word branches -> text, (B, T, D) or None."""
        if self.embedding == "resized":
            embedding = self.resizer(text.embedded)
        else:
            embedding = text.embedded if self.embedding else None
        if self.tunable_linear is not None:
            if embedding is None:
                raise ValueError("ADD_LINEAR_LAYER needs the dot-product or the contrastive align loss")
            prompt = self.tunable_linear.weight[: text.hidden.shape[1]]
            embedding = prompt + embedding
            text = text.replace(embedded=embedding, hidden=prompt + text.hidden)
        return text, embedding

    def forward(
        self, images, features, targets=None, language_dict_features=None, positive_map=None, captions=None,
        swint_feature_c4=None,
    ):  # fmt: skip
        """Losses in training, detections otherwise.

        Args:
            images: ImageList; features: levels (B, C, H_l, W_l); targets: list of BoxList in training.
            language_dict_features: TextFeatures, or a dict of its fields; captions: the strings.
            positive_map: see `GeneralizedVLRCNN.forward`.
        Returns: (list of BoxList or None, dict of losses, fused visual features or None).
        """
        outputs = self.predict(features, text := TextFeatures.of(language_dict_features), swint_feature_c4)
        anchors = self.anchor_generator(images, features)
        if self.training:
            losses = self.losses(outputs, targets, anchors, captions, positive_map, text.masks, text.mlm_labels)
            return None, losses, outputs.fused_visual_features
        return self.select(outputs, anchors, positive_map), {}, outputs.fused_visual_features

    def predict(self, features, text: TextFeatures, swint_feature_c4: Tensor | None = None) -> HeadOutputs:
        """Levels (B, C, H_l, W_l) and text -> raw predictions, of the class branch too where it is needed."""
        text, embedding = self.prepare_text(text)
        with_classes = self.class_logits_in_training if self.training else self.class_logits_in_inference
        return self.head(features, text, embedding, swint_feature_c4, with_class_logits=with_classes)

    def select(self, outputs: HeadOutputs, anchors, positive_map):
        """Raw predictions -> list of BoxList with `labels` and `scores`."""
        return self.box_selector_test(
            outputs.bbox_reg,
            outputs.centerness,
            anchors,
            outputs.cls_logits,
            outputs.token_logits,
            outputs.dot_product_logits,
            positive_map,
        )

    def losses(self, outputs, targets, anchors, captions, positive_map, text_masks, mlm_labels) -> dict[str, Tensor]:
        """Raw predictions and targets -> losses under the names of the original, weights applied."""
        classes, regression, centerness, token, contrastive, dot_product, shallow = self.loss_evaluator(
            outputs.cls_logits,
            outputs.bbox_reg,
            outputs.centerness,
            targets,
            anchors,
            captions,
            positive_map,
            outputs.token_logits,
            outputs.proj_tokens,
            outputs.contrastive_logits,
            outputs.dot_product_logits,
            text_masks,
            outputs.shallow_img_emb_feats,
        )
        losses = {"loss_reg": regression, "loss_centerness": centerness}
        if outputs.mlm_logits is not None:
            losses["mlm_loss"] = self.mlm_loss_weight * masked_word_loss(outputs.mlm_logits, mlm_labels)
        losses["loss_cls"] = classes
        optional = {
            "loss_token": token,
            "loss_contrastive_align": contrastive,
            "loss_dot_product_token": dot_product,
            "loss_shallow_contrastive": shallow,
        }
        return losses | {name: loss for name, loss in optional.items() if loss is not None}


RPN_HEADS.register("VLDYHEAD", VLDyHeadModule.from_config)
