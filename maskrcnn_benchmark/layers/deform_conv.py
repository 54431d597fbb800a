"""Modules around the deformable convolution."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.ops.deform_conv import deform_conv2d


class _DeformableLayer(nn.Module):
    """Weights and settings of a deformable convolution.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups: as in nn.Conv2d.
        deformable_groups: number of groups of input channels that have an offset, and a mask, of their own.
        bias: whether there is one; by default what the class has.
    """

    has_bias = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        deformable_groups: int = 1,
        bias: bool | None = None,
    ):
        super().__init__()
        _check_groups(in_channels, out_channels, groups, deformable_groups)
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, _pair(kernel_size)
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.groups, self.deformable_groups = groups, deformable_groups
        self.weight = nn.Parameter(_uniform_weight(in_channels, out_channels, kernel_size, groups))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if (self.has_bias if bias is None else bias) else None

    def convolve(self, input: Tensor, offset: Tensor, mask: Tensor | None) -> Tensor:
        return deform_conv2d(
            input,
            offset,
            self.weight,
            self.bias,
            mask=mask,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )

    def extra_repr(self) -> str:
        return (
            f"in_channels={self.in_channels}, out_channels={self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, dilation={self.dilation}, padding={self.padding}, "
            f"groups={self.groups}, deformable_groups={self.deformable_groups}, bias={self.bias is not None}"
        )


class DeformConv(_DeformableLayer):
    """Deformable convolution without modulation; it has no bias, as the operator of the original has none."""

    has_bias = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.bias is not None:
            raise ValueError("DeformConv has no bias; ModulatedDeformConv has")

    def forward(self, input: Tensor, offset: Tensor) -> Tensor:
        """input (B, C, H, W), offset (B, 2 * deformable_groups * kh * kw, H', W') -> (B, O, H', W')."""
        return self.convolve(input, offset, None)


class ModulatedDeformConv(_DeformableLayer):
    """Deformable convolution whose taps are weighted by a mask; the caller applies the sigmoid."""

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """input (B, C, H, W), offset (B, 2 * taps, H', W'), mask (B, taps, H', W') -> (B, O, H', W')."""
        return self.convolve(input, offset, mask)


class ModulatedDeformConvPack(_DeformableLayer):
    """Modulated deformable convolution that predicts its own offset and mask; it starts as a plain one halved."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        predicted = 3 * self.deformable_groups * math.prod(self.kernel_size)
        self.conv_offset_mask = nn.Conv2d(
            self.in_channels, predicted, self.kernel_size, self.stride, self.padding, self.dilation
        )
        nn.init.zeros_(self.conv_offset_mask.weight)
        nn.init.zeros_(self.conv_offset_mask.bias)

    def forward(self, input: Tensor) -> Tensor:
        """input (B, C, H, W) -> (B, O, H', W')."""
        first, second, mask = self.conv_offset_mask(input).chunk(3, dim=1)
        return self.convolve(input, torch.cat((first, second), dim=1), mask.sigmoid())


class DFConv2d(nn.Module):
    """Deformable convolution with the layer that predicts its offsets, and masks if modulated.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups, bias: as in nn.Conv2d; the padding keeps the
            size of the map at stride 1.
        with_modulated_dcn: predict masks too.
        deformable_groups: number of groups of input channels that have an offset of their own.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        with_modulated_dcn: bool = True,
        kernel_size: int | tuple[int, int] = 3,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        deformable_groups: int = 1,
        bias: bool = False,
    ):
        super().__init__()
        kernel = _pair(kernel_size)
        padding = (dilation * (kernel[0] - 1) // 2, dilation * (kernel[1] - 1) // 2)
        self.taps = deformable_groups * kernel[0] * kernel[1]
        self.with_modulated_dcn = with_modulated_dcn
        self.offset = nn.Conv2d(
            in_channels, (3 if with_modulated_dcn else 2) * self.taps, kernel, stride, padding, dilation
        )
        nn.init.kaiming_uniform_(self.offset.weight, a=1)
        nn.init.zeros_(self.offset.bias)
        layer = ModulatedDeformConv if with_modulated_dcn else DeformConv
        self.conv = layer(
            in_channels, out_channels, kernel, stride, padding, dilation, groups, deformable_groups, bias=bias
        )

    def forward(self, input: Tensor) -> Tensor:
        """input (B, C, H, W) -> (B, O, H', W')."""
        predicted = self.offset(input)
        if not self.with_modulated_dcn:
            return self.conv(input, predicted)
        return self.conv(input, predicted[:, : 2 * self.taps], predicted[:, 2 * self.taps :].sigmoid())


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _uniform_weight(in_channels: int, out_channels: int, kernel_size: int | tuple[int, int], groups: int) -> Tensor:
    # The bound counts all input channels, also with groups.
    kernel = _pair(kernel_size)
    bound = 1 / math.sqrt(in_channels * math.prod(kernel))
    return torch.empty(out_channels, in_channels // groups, *kernel).uniform_(-bound, bound)


def _check_groups(in_channels: int, out_channels: int, groups: int, deformable_groups: int) -> None:
    for name, divisor, channels in (
        ("groups", groups, in_channels),
        ("groups", groups, out_channels),
        ("deformable_groups", deformable_groups, in_channels),
    ):
        if channels % divisor:
            raise ValueError(f"{name}={divisor} does not divide {channels} channels")
