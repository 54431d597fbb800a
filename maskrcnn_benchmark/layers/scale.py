"""A learned factor."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Scale(nn.Module):
    """Multiplies by one learned number."""

    def __init__(self, init_value: float = 1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([init_value], dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale
