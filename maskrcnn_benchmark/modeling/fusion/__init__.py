"""Modules that exchange information between image and text inside the head."""

from .bi_attention import BiAttentionBlockForCheckpoint, BiMultiHeadAttention
from .film import FilmFusion
from .state import TowerState
from .t2i_attention import AttentionT2I, MultiHeadAttention
from .text_layer import BertEncoderLayer, CLIPTransformerLayer, DummyLayer
from .vl_fuse import VLFuse, build_fusion

__all__ = [
    "AttentionT2I",
    "BertEncoderLayer",
    "BiAttentionBlockForCheckpoint",
    "BiMultiHeadAttention",
    "CLIPTransformerLayer",
    "DummyLayer",
    "FilmFusion",
    "MultiHeadAttention",
    "TowerState",
    "VLFuse",
    "build_fusion",
]
