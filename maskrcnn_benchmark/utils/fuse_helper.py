"""Historical import path of the fusion blocks."""

from maskrcnn_benchmark.modeling.fusion import (
    AttentionT2I,
    BiAttentionBlockForCheckpoint,
    BiMultiHeadAttention,
    MultiHeadAttention,
)
from maskrcnn_benchmark.modeling.fusion.resizer import FeatureResizer
from maskrcnn_benchmark.modeling.heads.mlm import BertLMPredictionHead

BiAttentionBlock = BiAttentionBlockForCheckpoint

__all__ = [
    "AttentionT2I",
    "BertLMPredictionHead",
    "BiAttentionBlock",
    "BiAttentionBlockForCheckpoint",
    "BiMultiHeadAttention",
    "FeatureResizer",
    "MultiHeadAttention",
]
