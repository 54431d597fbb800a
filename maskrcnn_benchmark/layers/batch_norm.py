"""Batch normalisation with fixed statistics, and with statistics over ranks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.utils.comm import get_world_size, reduce_sum


class FrozenBatchNorm2d(nn.Module):
    """x * w / sqrt(var) + b - mean * w / sqrt(var) with four buffers and no epsilon."""

    def __init__(self, num_features: int):
        super().__init__()
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, C, H, W)."""
        scale = self.weight * self.running_var.rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None].to(x.dtype) + shift[:, None, None].to(x.dtype)


class NaiveSyncBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose statistics are the mean of those of the ranks, every rank counting the same.

    It is plain batch normalisation on one rank and in evaluation.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) with B > 0 -> (B, C, H, W)."""
        if get_world_size() == 1 or not self.training:
            return super().forward(x)
        moments = torch.cat((x.float().mean(dim=(0, 2, 3)), x.float().square().mean(dim=(0, 2, 3))))
        moments = _SumOverRanks.apply(moments) / get_world_size()
        mean, mean_square = moments.split(x.shape[1])
        variance = mean_square - mean.square()
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked += 1
                momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(variance, momentum)
        # torch's own function takes given statistics as constants, but here the gradient goes through them.
        scale = (variance + self.eps).rsqrt()
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        return (x * scale[:, None, None] + shift[:, None, None]).to(x.dtype)


class _SumOverRanks(torch.autograd.Function):
    """Sum over ranks whose gradient is the sum of the gradients of all ranks."""

    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        return reduce_sum(tensor)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return reduce_sum(grad.contiguous())
