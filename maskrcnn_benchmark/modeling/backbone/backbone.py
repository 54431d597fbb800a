"""Builds body and pyramid from the configuration and joins them."""

import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from maskrcnn_benchmark.modeling.language_backbone.features import TextFeatures
from maskrcnn_benchmark.modeling.registry import BACKBONES

from .fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from .swin import SwinTransformer
from .swin_vl import SwinTextTransformer

logger = logging.getLogger(__name__)

SWIN_VERSIONS = ("v1", "v2", "vl", "v2_vl")


class BackboneOutput(NamedTuple):
    """Pyramid levels, finest first; the stride-16 body map when asked for; the text if the body changed it."""

    levels: tuple[Tensor, ...]
    c4: Tensor | None
    text: TextFeatures | None


class Backbone(nn.Sequential):
    """Children `body` and `fpn`; called with images it returns the tuple of pyramid levels.

    `reads_text` says that the body needs the text, `encode(images, text)` then gives all outputs.
    """

    def __init__(self, body: nn.Module, fpn: nn.Module, out_channels: int, *, return_c4: bool = False):
        super().__init__(OrderedDict(body=body, fpn=fpn))
        self.out_channels, self.return_c4 = out_channels, return_c4

    @property
    def reads_text(self) -> bool:
        return isinstance(self.body, SwinTextTransformer)

    def encode(self, images: Tensor, text: TextFeatures | None = None) -> BackboneOutput:
        """images (B, 3, H, W), text needed by bodies that read it -> BackboneOutput.

        Raises: ValueError if the body reads text and there is none.
        """
        if not self.reads_text:
            maps = self.body(images)
            text = None
        elif text is None:
            raise ValueError("this backbone (SWINT.VERSION 'vl' or 'v2_vl') reads the text: pass captions")
        else:
            maps, hidden = self.body(images, text.hidden, text.masks)
            text = text.replace(hidden=hidden)
        return BackboneOutput(self.fpn(maps), maps[-2] if self.return_c4 and self.reads_text else None, text)

    def forward(
        self, images: Tensor | Mapping[str, Any]
    ) -> tuple[Tensor, ...] | tuple[tuple[Tensor, ...], TextFeatures | None, Tensor | None]:
        """Images (B, 3, H, W) -> levels. `{"img": images, "lang": text}`, as bodies that read text were called
        historically, with TextFeatures or a dict of them -> (levels, text, stride-16 body map or None).
        """
        if not isinstance(images, Mapping):
            return self.encode(images).levels
        levels, c4, text = self.encode(images["img"], TextFeatures.of(images["lang"]))
        return levels, text, c4


def build_swin_body(cfg) -> SwinTransformer:
    swin, backbone = cfg.MODEL.SWINT, cfg.MODEL.BACKBONE
    if swin.VERSION not in SWIN_VERSIONS:
        raise ValueError(f"MODEL.SWINT.VERSION={swin.VERSION!r} is unknown; known are {', '.join(SWIN_VERSIONS)}")
    logger.info("VISION BACKBONE USE GRADIENT CHECKPOINTING:  %s", backbone.USE_CHECKPOINT)
    is_v2 = swin.VERSION.startswith("v2")
    kwargs = {
        "embed_dim": swin.EMBED_DIM,
        "depths": tuple(swin.DEPTHS),
        "num_heads": tuple(swin.NUM_HEADS),
        "window": swin.WINDOW_SIZE,
        "mlp_ratio": swin.MLP_RATIO,
        "drop_path_rate": swin.DROP_PATH_RATE,
        "convolutional": is_v2,
        "layer_scale": 1e-4 if is_v2 and swin.LAYER_SCALE else None,
        "absolute_position": swin.APE,
        "out_features": tuple(backbone.OUT_FEATURES),
        "out_norm": swin.OUT_NORM if is_v2 else True,
        "norm_first": not backbone.CONV_BODY.endswith("RETINANET"),
        "freeze_at": backbone.FREEZE_CONV_BODY_AT,
        "use_checkpoint": backbone.USE_CHECKPOINT,
    }
    if swin.VERSION.endswith("vl"):
        language = cfg.MODEL.LANGUAGE_BACKBONE
        return SwinTextTransformer(text_dim=language.LANG_DIM, num_tokens=language.MAX_QUERY_LEN, **kwargs)
    return SwinTransformer(**kwargs)


def _build_fpn(cfg, in_channels: list[int], top_blocks: nn.Module) -> FPN:
    fpn = cfg.MODEL.FPN
    if fpn.USE_DYHEAD:
        raise ValueError("MODEL.FPN.USE_DYHEAD (a tower without language inside the backbone) is not implemented")
    return FPN(
        in_channels,
        cfg.MODEL.BACKBONE.OUT_CHANNELS,
        top_blocks=top_blocks,
        drop_block=(fpn.DROP_PROB, fpn.DROP_SIZE) if fpn.DROP_BLOCK else None,
        groups=cfg.MODEL.GROUP_NORM.NUM_GROUPS if fpn.USE_GN else 0,
        eps=cfg.MODEL.GROUP_NORM.EPSILON,
        use_relu=fpn.USE_RELU,
        use_spp=fpn.USE_SPP,
        use_pan=fpn.USE_PAN,
    )


@BACKBONES.register("SWINT-FPN-RETINANET")
def build_swint_fpn_p3p7(cfg) -> Backbone:
    """Swin, pyramid P3 to P5, and P6, P7 by strided convolutions (strides 8 to 128)."""
    width = cfg.MODEL.BACKBONE.OUT_CHANNELS
    fpn = _build_fpn(cfg, [0, *cfg.MODEL.SWINT.OUT_CHANNELS[-3:]], LastLevelP6P7(width, width))
    return Backbone(build_swin_body(cfg), fpn, width, return_c4=cfg.MODEL.FPN.RETURN_SWINT_FEATURE_BEFORE_FUSION)


@BACKBONES.register("SWINT-FPN")
def build_swint_fpn(cfg) -> Backbone:
    """Swin, pyramid P2 to P5, and every second pixel of P5 as P6 (strides 4 to 64)."""
    fpn = _build_fpn(cfg, list(cfg.MODEL.SWINT.OUT_CHANNELS[-4:]), LastLevelMaxPool())
    width = cfg.MODEL.BACKBONE.OUT_CHANNELS
    return Backbone(build_swin_body(cfg), fpn, width, return_c4=cfg.MODEL.FPN.RETURN_SWINT_FEATURE_BEFORE_FUSION)


def build_backbone(cfg) -> Backbone:
    """The backbone that MODEL.BACKBONE.CONV_BODY names. Raises: KeyError that lists what exists."""
    return BACKBONES[cfg.MODEL.BACKBONE.CONV_BODY](cfg)
