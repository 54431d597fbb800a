"""Feature pyramid (arXiv:1612.03144) with the two extra levels of RetinaNet."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn_benchmark.layers import DropBlock2D


def _conv(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 0, eps: float = 1e-5, relu=False
) -> nn.Module:
    """Convolution with "same" padding; GroupNorm of `groups` groups (0: none) and ReLU make it a Sequential."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=not groups)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    parts: list[nn.Module] = [conv]
    if groups:
        parts.append(nn.GroupNorm(groups, out_channels, eps=eps))
    if relu:
        parts.append(nn.ReLU())
    return nn.Sequential(*parts) if len(parts) > 1 else conv


class SpatialPyramidPooling(nn.Module):
    """The map beside its max-poolings of 5, 9 and 13 pixels: (B, C, H, W) -> (B, 4 C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x] + [F.max_pool2d(x, k, stride=1, padding=k // 2) for k in (5, 9, 13)], 1)


class LastLevelP6P7(nn.Module):
    """P6 and P7 by strided convolutions, from P5 when the widths agree, else from C5."""

    num_levels = 2

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.p6 = _conv(in_channels, out_channels, 3, stride=2)
        self.p7 = _conv(out_channels, out_channels, 3, stride=2)
        self.use_p5 = in_channels == out_channels

    def forward(self, c5: Tensor, p5: Tensor) -> list[Tensor]:
        p6 = self.p6(p5 if self.use_p5 else c5)
        return [p6, self.p7(F.relu(p6))]


class LastLevelMaxPool(nn.Module):
    """One more level that takes every second pixel of P5."""

    num_levels = 1

    def forward(self, c5: Tensor, p5: Tensor) -> list[Tensor]:
        return [F.max_pool2d(p5, 1, 2, 0)]


class FPN(nn.Module):
    """Body maps, finest first -> pyramid levels of out_channels, finest first.

    Args:
        in_channels: widths of the body maps; 0 skips a map, which keeps its number in the layer names.
        top_blocks: makes the levels above the coarsest map.
        drop_block: probability and block size of DropBlock on all but the coarsest map in training, or None.
        groups, eps: GroupNorm after every convolution (0: none); use_relu: ReLU after every convolution.
        use_spp: spatial pyramid pooling of the coarsest map; use_pan: a second, bottom-up path.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        *,
        top_blocks: LastLevelP6P7 | LastLevelMaxPool | None = None,
        drop_block: tuple[float, int] | None = None,
        groups: int = 0,
        eps: float = 1e-5,
        use_relu: bool = False,
        use_spp: bool = False,
        use_pan: bool = False,
    ):
        super().__init__()
        norm = {"groups": groups, "eps": eps, "relu": use_relu}
        self.indices = [i for i, channels in enumerate(in_channels, start=1) if channels]
        for i in self.indices:
            factor = 4 if use_spp and i == self.indices[-1] else 1
            self.add_module(f"fpn_inner{i}", _conv(factor * in_channels[i - 1], out_channels, 1, **norm))
            self.add_module(f"fpn_layer{i}", _conv(out_channels, out_channels, 3, **norm))
            if use_pan:
                self.add_module(f"pan_in_layer{i}", _conv(out_channels, out_channels, 3, stride=2, **norm))
                self.add_module(f"pan_out_layer{i}", _conv(out_channels, out_channels, 3, **norm))
        self.top_blocks = top_blocks
        self.drop_block = DropBlock2D(*drop_block) if drop_block else nn.Identity()
        self.spp = SpatialPyramidPooling() if use_spp else nn.Identity()
        self.use_pan = use_pan

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        maps = list(maps)[-len(self.indices) :]
        last = self.get_submodule(f"fpn_inner{self.indices[-1]}")(self.spp(maps[-1]))
        results = [self.get_submodule(f"fpn_layer{self.indices[-1]}")(last)]
        for i, feature in zip(self.indices[-2::-1], maps[-2::-1], strict=True):
            lateral = self.get_submodule(f"fpn_inner{i}")(feature)
            if last.shape[-2:] != lateral.shape[-2:]:
                last = F.interpolate(last, size=lateral.shape[-2:], mode="nearest")
            last = lateral + last
            results.insert(0, self.get_submodule(f"fpn_layer{i}")(self.drop_block(last)))
        if self.use_pan:
            results = self._bottom_up(results)
        if self.top_blocks is not None:
            results += self.top_blocks(maps[-1], results[-1])
        return tuple(results)

    def _bottom_up(self, levels: list[Tensor]) -> list[Tensor]:
        results = [levels[0]]
        for i, level in zip(self.indices, levels[1:], strict=False):
            down = self.get_submodule(f"pan_in_layer{i}")(self.drop_block(results[-1]))
            results.append(self.get_submodule(f"pan_out_layer{i}")(down + level))
        return results
