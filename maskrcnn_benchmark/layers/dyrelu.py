"""Dynamic ReLU (arXiv:2003.10027): slopes and offsets of a piecewise linear function, predicted from the map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class h_sigmoid(nn.Module):  # noqa: N801  the published name
    """Piecewise linear sigmoid relu6(x + 3) / 6, scaled to end at `h_max`."""

    def __init__(self, h_max: float = 1.0):
        super().__init__()
        self.relu = nn.ReLU6()
        self.h_max = h_max

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + 3) * (self.h_max / 6)


def dynamic_relu(x: Tensor, coefficients: Tensor, use_bias: bool, use_two: bool) -> Tensor:
    """max_k (a_k x + b_k) with slopes and offsets of its own for every image and channel.

    Args:
        x: (B, C, H, W).
        coefficients: (B, E * C) in [0, 1], E = (1 + use_bias) * (1 + use_two); per E in the order a1, b1, a2, b2,
            without the absent ones. At 1/2 they give a1 = 1 and 0 for the others: plain ReLU.
        use_bias: whether there are offsets.
        use_two: whether there are two pieces.

    Returns: (B, C, H, W).
    """
    parts = iter(coefficients[:, :, None, None].chunk((1 + use_bias) * (1 + use_two), dim=1))
    pieces = []
    for initial_slope in (1.0, 0.0)[: 1 + use_two]:
        piece = x * ((next(parts) - 0.5) * 2 + initial_slope)
        pieces.append(piece + (next(parts) - 0.5) if use_bias else piece)
    return torch.maximum(*pieces) if use_two else pieces[0]


class DYReLU(nn.Module):
    """Dynamic ReLU whose coefficients come from two linear layers on the average of the map.

    Args:
        inp, oup: channels of the input and the output; the map keeps its channels, so they are equal.
        reduction: the hidden layer has inp // reduction channels.
        use_bias: predict offsets as well as slopes.
        K2: two linear pieces, of which the larger counts; False makes it a predicted linear function.
        use_spatial: additionally weight the positions.
    Raises: ValueError if the channels differ.
    """

    def __init__(
        self,
        inp: int,
        oup: int,
        reduction: int = 4,
        use_bias: bool = True,
        K2: bool = True,
        use_spatial: bool = False,
    ):
        super().__init__()
        if inp != oup:
            raise ValueError(f"the output has the channels of the input, got inp={inp} and oup={oup}")
        self.use_bias, self.use_two = use_bias, K2
        hidden = max(inp // reduction, 1)
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(inp, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, oup * (1 + use_bias) * (1 + K2)),
            h_sigmoid(),
        )
        self.spa = nn.Sequential(nn.Conv2d(inp, 1, kernel_size=1), nn.BatchNorm2d(1)) if use_spatial else None

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, C, H, W)."""
        coefficients = self.fc(self.avg_pool(x).flatten(1))
        out = dynamic_relu(x, coefficients, self.use_bias, self.use_two)
        if self.spa is None:
            return out
        height, width = x.shape[2:]
        weights = self.spa(x).flatten(1).softmax(dim=1) * (height * width)
        return out * (F.hardtanh(weights, 0, 3) / 3).unflatten(1, (1, height, width))
