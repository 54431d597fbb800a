"""Turns off all randomness of training, for comparisons of numbers."""

from timm.layers import DropPath
from torch import nn

from maskrcnn_benchmark.layers import DropBlock2D
from maskrcnn_benchmark.modeling.fusion import BiMultiHeadAttention, MultiHeadAttention


def disable_stochasticity(model: nn.Module) -> nn.Module:
    """Sets every dropout, drop-path and DropBlock probability of the model to zero, in place; returns the model."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, (DropPath, DropBlock2D)):
            module.drop_prob = 0.0
        elif isinstance(module, (BiMultiHeadAttention, MultiHeadAttention, nn.MultiheadAttention)):
            module.dropout = 0.0
    return model
