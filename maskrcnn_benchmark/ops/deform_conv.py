"""Deformable convolution, plain (arXiv:1703.06211) and modulated (arXiv:1811.11168)."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor

from maskrcnn_benchmark.ops.deform_conv_rows import Geometry, deform_conv2d_rows


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
) -> Tensor:
    """Convolution whose taps are displaced by `offset` and, if `mask` is given, weighted by it.

    A tap outside the map by a pixel or more samples 0; within that it is interpolated with zeros beyond the border.
    16-bit numbers are computed in float32; the result is float32 under autocast, else of the dtype of the input.

    Args:
        input: (B, C, H, W), any memory layout.
        offset: (B, 2 * groups * kh * kw, H', W'), in pixels, (dy, dx) interleaved per tap, offset groups outermost.
        weight: (O, C / conv_groups, kh, kw).
        bias: (O,).
        mask: (B, groups * kh * kw, H', W'), used as given.
        stride, padding, dilation: of both axes, or (vertical, horizontal).

    Returns: (B, O, H', W') with H' = floor((H + 2 padding - dilation (kh - 1) - 1) / stride) + 1.
    Raises: ValueError where shapes do not fit together, with the shapes.
    """
    geometry = Geometry(_pair(stride), _pair(padding), _pair(dilation))
    _check_shapes(input, offset, weight, bias, mask, geometry)
    dtype = torch.float32 if input.dtype in (torch.float16, torch.bfloat16) else input.dtype
    device = input.device.type
    is_autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    result_dtype = dtype if is_autocast else input.dtype
    with torch.autocast(device, enabled=False):
        input, offset, weight = input.to(dtype), offset.to(dtype).contiguous(), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
        mask = None if mask is None else mask.to(dtype)
        if _fits_rows(input, offset, weight, bias, mask):
            out = deform_conv2d_rows(input, offset, weight, bias, mask, geometry)
        else:
            out = torchvision.ops.deform_conv2d(
                input.contiguous(),
                offset,
                weight.contiguous(),
                bias,
                mask=None if mask is None else mask.contiguous(),
                **geometry._asdict(),
            )
    return out.to(result_dtype)


def _fits_rows(input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None) -> bool:
    """Whether the quick form for CPUs applies: one group, one offset group, no gradients."""
    needs_gradient = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (input, offset, weight, bias, mask)
    )
    one_group = weight.shape[1] == input.shape[1] and offset.shape[1] == 2 * weight.shape[2] * weight.shape[3]
    return input.device.type == "cpu" and one_group and not needs_gradient


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Length of an axis after a convolution."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _check_shapes(
    input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, geometry: Geometry
) -> None:
    for name, tensor in (("input", input), ("offset", offset), ("weight", weight)):
        if tensor.dim() != 4:
            raise ValueError(f"{name} must have 4 dimensions, got shape {tuple(tensor.shape)}")
    out_channels, weight_channels, kh, kw = weight.shape
    if input.shape[1] % weight_channels or out_channels % (input.shape[1] // weight_channels):
        raise ValueError(
            f"weight {tuple(weight.shape)} does not fit input {tuple(input.shape)}: their channels make no whole groups"
        )
    if bias is not None and tuple(bias.shape) != (out_channels,):
        raise ValueError(f"bias must have the shape ({out_channels},), got {tuple(bias.shape)}")
    taps = kh * kw
    groups = offset.shape[1] // (2 * taps)
    if groups == 0 or offset.shape[1] % (2 * taps) or input.shape[1] % groups:
        raise ValueError(
            f"offset has {offset.shape[1]} channels; needed is a multiple of {2 * taps} (2 x {kh} x {kw}) "
            f"whose factor divides the {input.shape[1]} input channels"
        )
    height, width = (
        output_size(input.shape[2 + i], weight.shape[2 + i], *(pair[i] for pair in geometry)) for i in (0, 1)
    )
    if height < 1 or width < 1:
        raise ValueError(
            f"input {tuple(input.shape)} is smaller than the kernel {kh}x{kw} with dilation {geometry.dilation}"
        )
    expected = {"offset": (input.shape[0], 2 * groups * taps, height, width)}
    actual = {"offset": tuple(offset.shape)}
    if mask is not None:
        expected["mask"] = (input.shape[0], groups * taps, height, width)
        actual["mask"] = tuple(mask.shape)
    for name, shape in expected.items():
        if actual[name] != shape:
            raise ValueError(f"{name} must have the shape {shape}, got {actual[name]}")
