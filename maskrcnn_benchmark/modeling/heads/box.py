"""Convolutions shared over the levels: box regression, centerness, classes, token scores."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from maskrcnn_benchmark.layers import Scale


def prior_bias(probability: float) -> float:
    """The bias whose sigmoid is the given probability."""
    return -math.log((1 - probability) / probability)


def prediction_conv(in_channels: int, out_channels: int, bias: float = 0.0) -> nn.Conv2d:
    """1x1 convolution with weights of standard deviation 0.01."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=1)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.constant_(conv.bias, bias)
    return conv


def regress_boxes(conv: nn.Conv2d, scales: Sequence[Scale], levels: Sequence[Tensor]) -> list[Tensor]:
    """Levels (B, C, H_l, W_l) -> box deltas (B, 4 A, H_l, W_l), each level times its learnt scale."""
    if len(levels) > len(scales):
        raise ValueError(f"the head has scales for {len(scales)} levels, got {len(levels)}")
    return [scale(conv(level)) for scale, level in zip(scales, levels, strict=False)]
