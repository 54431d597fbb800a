"""Deformable convolution on the CPU without gradients: every tap is a weighted sum of four rows of the pixel table.

Gathering whole pixels (all channels at once) is vectorised and runs on all cores, several times faster than the loop
over single numbers behind torchvision's operator.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Geometry(NamedTuple):
    """How a kernel moves over a map, each as (vertical, horizontal)."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


def _positions(offset: Tensor, size: int, kernel: int, stride: int, padding: int, dilation: int, axis: int) -> Tensor:
    """Sampling coordinates (B, H', W', kh * kw) along one axis; offset (B, H', W', kh, kw) along the same."""
    grid = torch.arange(size, device=offset.device, dtype=offset.dtype) * stride - padding
    taps = torch.arange(kernel, device=offset.device, dtype=offset.dtype) * dilation
    if axis == 0:
        return (offset + grid[:, None, None, None] + taps[:, None]).flatten(3)
    return (offset + grid[:, None, None] + taps).flatten(3)


def _corners(position: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """The two pixels around each coordinate and their weights, 0 for a pixel outside of the map."""
    low = position.floor()
    high_weight = position - low
    corners = []
    for pixel, weight in ((low, 1 - high_weight), (low + 1, high_weight)):
        inside = (pixel >= 0) & (pixel < size)
        corners.append((pixel.clamp(0, size - 1).long(), weight * inside))
    return corners


def deform_conv2d_rows(
    input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, geometry: Geometry
) -> Tensor:
    """`deform_conv2d` for one group and one offset group; the result has channels-last strides."""
    stride, padding, dilation = geometry
    batch, channels, height, width = input.shape
    out_channels, _, kh, kw = weight.shape
    out_height, out_width = offset.shape[-2:]
    moved = offset.view(batch, kh, kw, 2, out_height, out_width).permute(3, 0, 4, 5, 1, 2)
    rows_y = _positions(moved[0], out_height, kh, stride[0], padding[0], dilation[0], axis=0)
    rows_x = _positions(moved[1], out_width, kw, stride[1], padding[1], dilation[1], axis=1)
    image = torch.arange(batch, device=input.device)[:, None, None, None] * (height * width)
    scale = 1 if mask is None else mask.permute(0, 2, 3, 1)
    index, share = [], []
    for y, y_weight in _corners(rows_y, height):
        for x, x_weight in _corners(rows_x, width):
            index.append(image + y * width + x)
            share.append(y_weight * x_weight * scale)
    pixels = input.permute(0, 2, 3, 1).reshape(-1, channels)
    columns = F.embedding_bag(
        torch.stack(index, -1).flatten(0, -2).int(),
        pixels,
        mode="sum",
        per_sample_weights=torch.stack(share, -1).flatten(0, -2),
    )
    kernel = weight.permute(2, 3, 1, 0).reshape(kh * kw * channels, out_channels)
    columns = columns.view(-1, kh * kw * channels)
    out = columns @ kernel if bias is None else torch.addmm(bias, columns, kernel)
    return out.view(batch, out_height, out_width, out_channels).permute(0, 3, 1, 2)
