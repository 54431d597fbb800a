"""DropBlock (arXiv:1810.12890)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DropBlock2D(nn.Module):
    """Sets square blocks of a map to zero while training and scales up the rest.

    Seeds of blocks are drawn from the CPU generator, for maps on any device, one mask per image for all channels. Only
    a CUDA graph that is being recorded draws them on its GPU, anew in every replay.

    Args:
        drop_prob: share of positions to drop; 0 makes it the identity.
        block_size: side of a block.
    """

    def __init__(self, drop_prob: float, block_size: int):
        super().__init__()
        if not 0 <= drop_prob < 1 or block_size < 1:
            raise ValueError(f"need 0 <= drop_prob < 1 and block_size >= 1, got {drop_prob} and {block_size}")
        self.drop_prob, self.block_size = drop_prob, block_size

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, C, H, W)."""
        if not self.training or self.drop_prob == 0:
            return x
        device = x.device if x.is_cuda and torch.cuda.is_current_stream_capturing() else "cpu"
        seeds = torch.rand(x.shape[0], *x.shape[2:], device=device) < self.drop_prob / self.block_size**2
        dropped = F.max_pool2d(seeds[:, None].float(), self.block_size, stride=1, padding=self.block_size // 2)
        if self.block_size % 2 == 0:
            dropped = dropped[:, :, :-1, :-1]
        kept = 1 - dropped
        # A map dropped whole has no rest to scale up.
        kept = kept * (kept.numel() / kept.sum().clamp(min=1))
        return x * kept.to(x.device, x.dtype, non_blocking=True)
