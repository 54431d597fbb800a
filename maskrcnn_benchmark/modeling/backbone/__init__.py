"""Image encoders: `build_backbone(cfg)` gives images -> feature pyramid."""

from .backbone import BackboneOutput, build_backbone
from .fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from .swin import SwinTransformer
from .swin_vl import SwinTextTransformer

__all__ = [
    "FPN",
    "BackboneOutput",
    "LastLevelMaxPool",
    "LastLevelP6P7",
    "SwinTextTransformer",
    "SwinTransformer",
    "build_backbone",
]
