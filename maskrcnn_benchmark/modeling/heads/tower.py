"""The tower of the head: fusion of image and text, text layers and dynamic convolutions in turn."""

from torch import nn

from maskrcnn_benchmark.modeling.fusion import BertEncoderLayer, CLIPTransformerLayer, DummyLayer, build_fusion
from maskrcnn_benchmark.modeling.heads.dyconv import DyConv
from maskrcnn_benchmark.modeling.language_backbone import load_text_config


def _norm_name(head) -> str:
    flags = (("gn", head.USE_GN), ("nsync_bn", head.USE_NSYNCBN), ("sync_bn", head.USE_SYNCBN))
    return next((name for name, flag in flags if flag), "")


def build_tower(cfg) -> nn.Sequential:
    """NUM_CONVS times DyConv, each after a fusion step and a text layer when EARLY_FUSE_ON."""
    head, fuse = cfg.MODEL.DYHEAD, cfg.MODEL.DYHEAD.FUSE_CONFIG
    if head.CONV_FUNC:
        raise ValueError(f"MODEL.DYHEAD.CONV_FUNC={head.CONV_FUNC!r} is not implemented; leave it empty")
    is_clip = cfg.MODEL.LANGUAGE_BACKBONE.MODEL_TYPE == "clip"
    text_config = (
        None if is_clip or not fuse.EARLY_FUSE_ON else load_text_config(cfg.MODEL.LANGUAGE_BACKBONE.MODEL_TYPE)
    )
    modules: list[nn.Module] = []
    for i in range(head.NUM_CONVS):
        if fuse.EARLY_FUSE_ON:
            modules.append(build_fusion(cfg))
            if i == head.NUM_CONVS - 1 and not fuse.USE_FUSED_FEATURES_DOT_PRODUCT:
                modules.append(DummyLayer())
            elif is_clip:
                modules.append(
                    CLIPTransformerLayer(cfg.MODEL.CLIP.WIDTH, cfg.MODEL.CLIP.HEADS, cfg.MODEL.CLIP.DROP_PATH)
                )
            else:
                modules.append(BertEncoderLayer.from_config(cfg, text_config))
        modules.append(
            DyConv(
                head.CHANNELS if i else cfg.MODEL.BACKBONE.OUT_CHANNELS,
                head.CHANNELS,
                use_dyfuse=head.USE_DYFUSE,
                use_dyrelu=head.USE_DYRELU,
                use_deform=head.USE_DFCONV,
                norm=_norm_name(head),
                num_groups=cfg.MODEL.GROUP_NORM.NUM_GROUPS,
            )
        )
    return nn.Sequential(*modules)
