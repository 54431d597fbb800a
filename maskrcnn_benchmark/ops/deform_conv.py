"""Deformable convolution, plain (arXiv:1703.06211) and modulated (arXiv:1811.11168)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor

from maskrcnn_benchmark.ops.deform_conv_rows import Geometry, deform_conv2d_rows
from maskrcnn_benchmark.ops.library import LIBRARY, define, qualified

# Where a position that is not a number goes, and how far any offset is followed: outside of every map.
_FAR = 1e8


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

    A tap outside the map by a pixel or more, or whose offset is not a number, samples 0 and has no gradient; within
    that it is interpolated with zeros beyond the border. It is differentiable once.

    Positions, interpolation and sums are of float32 for 16-bit numbers, and `offset` and `mask` may be float32 beside
    16-bit features. The result has the dtype of the input. Under autocast on a GPU the features and weights are taken
    in autocast's dtype; on the CPU in float32; offsets and masks keep their precision and the result is float32.

    Channels-last inputs are not copied; the result lies channels-last in memory.

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
    device = input.device.type
    if not (device in ("cpu", "cuda") and torch.is_autocast_enabled(device)):
        offset, mask, weight, bias = _match(offset, mask, weight, bias, input.dtype)
    groups = input.shape[1] // weight.shape[1]
    offset_groups = offset.shape[1] // (2 * weight.shape[2] * weight.shape[3])
    settings = (*geometry.stride, *geometry.padding, *geometry.dilation, groups, offset_groups)
    return _deform_conv2d(input, offset, mask, weight, bias, *settings)


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
    if 0 in weight.shape:
        raise ValueError(f"weight must not be empty, got shape {tuple(weight.shape)}")
    if min(*geometry.stride, *geometry.dilation) < 1 or min(geometry.padding) < 0:
        raise ValueError(f"stride and dilation must be positive and padding not negative, got {geometry}")
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


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _match(
    offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """The arguments in dtypes that go with features of `dtype`: offsets and masks may be wider."""
    allowed = (dtype, _wide(dtype))
    if offset.dtype not in allowed:
        offset = offset.to(_wide(dtype))
    if mask is not None and mask.dtype not in allowed:
        mask = mask.to(_wide(dtype))
    return offset, mask, weight.to(dtype), None if bias is None else bias.to(dtype)


def _near(offset: Tensor) -> Tensor:
    """Offsets that torchvision and index arithmetic can follow; what was not a number is outside of every map."""
    return offset.nan_to_num(_FAR).clamp(-_FAR, _FAR)


def _plain(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    offset_groups: int,
) -> Tensor:
    """The operator with torchvision, or row by row on the CPU; 16-bit numbers are computed in float32."""
    geometry = Geometry((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w))
    dtype = input.dtype
    offset = _near(offset.to(_wide(dtype)))
    input, weight = input.to(_wide(dtype)), weight.to(_wide(dtype))
    mask, bias = (None if t is None else t.to(_wide(dtype)) for t in (mask, bias))
    if input.device.type == "cpu" and groups == offset_groups == 1 and input.shape[0]:
        out = deform_conv2d_rows(input, offset.contiguous(), weight, bias, mask, geometry)
    else:
        tensors = (t if t is None else t.contiguous() for t in (input, offset, weight, bias))
        mask = None if mask is None else mask.contiguous()
        out = torchvision.ops.deform_conv2d(*tensors, mask=mask, **geometry._asdict())
    return _channels_last(out).to(dtype)


def _channels_last(tensor: Tensor) -> Tensor:
    """(B, C, H, W) with the strides of a (B, H, W, C) tensor, as the kernels return it."""
    return tensor.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def _plain_backward(
    grad: Tensor,
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *settings: int,
) -> tuple[Tensor, ...]:
    """The backward pass with torchvision's; an empty tensor stands for a gradient that nobody needs."""
    *integers, needs_input, needs_coordinates, needs_parameters = settings
    wide = _wide(input.dtype)
    near = _near(offset.to(wide))
    scale = near.new_zeros((input.shape[0], 1)) if mask is None else mask.to(wide)
    shift = weight.new_zeros(weight.shape[0], dtype=wide) if bias is None else bias.to(wide)
    tensors = (t.contiguous() for t in (grad.to(wide), input.to(wide), weight.to(wide), near, scale, shift))
    grad_input, grad_weight, grad_offset, grad_mask, grad_bias = torch.ops.torchvision._deform_conv2d_backward(
        *tensors, *integers, mask is not None
    )
    grad_offset = torch.where(offset.isfinite(), grad_offset, 0)
    return (
        _or_empty(_channels_last(grad_input), input, needs_input),
        _or_empty(grad_offset, offset, needs_coordinates),
        _or_empty(grad_mask, offset if mask is None else mask, needs_coordinates and mask is not None),
        _or_empty(grad_weight, weight, needs_parameters),
        _or_empty(grad_bias, weight, needs_parameters and bias is not None),
    )


def _or_empty(gradient: Tensor, like: Tensor, is_needed: int) -> Tensor:
    return gradient.to(like.dtype) if is_needed else like.new_empty(0)


_SETTINGS = (
    "int stride_h, int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w, int groups, int offset_groups"
)
_deform_conv2d = define(
    f"deform_conv2d(Tensor input, Tensor offset, Tensor? mask, Tensor weight, Tensor? bias, {_SETTINGS}) -> Tensor",
    _plain,
)
_deform_conv2d_backward = define(
    "_deform_conv2d_backward(Tensor grad, Tensor input, Tensor offset, Tensor? mask, Tensor weight, Tensor? bias, "
    f"{_SETTINGS}, bool needs_input, bool needs_coordinates, bool needs_parameters) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _plain_backward,
)


@torch.library.register_fake(qualified(_deform_conv2d))
def _fake(
    input: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None, *settings: int
) -> Tensor:
    batch, _, out_height, out_width = offset.shape
    return input.new_empty(batch, out_height, out_width, weight.shape[0]).permute(0, 3, 1, 2)


@torch.library.register_fake(qualified(_deform_conv2d_backward))
def _fake_backward(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    input, offset, mask, weight, bias = arguments[:5]
    needs_input, needs_coordinates, needs_parameters = arguments[-3:]
    batch, channels, height, width = input.shape
    maps = offset if mask is None else mask
    return (
        _or_empty(input.new_empty(batch, height, width, channels).permute(0, 3, 1, 2), input, needs_input),
        _or_empty(offset.new_empty(offset.shape), offset, needs_coordinates),
        _or_empty(maps.new_empty(maps.shape), maps, needs_coordinates and mask is not None),
        _or_empty(weight.new_empty(weight.shape), weight, needs_parameters),
        _or_empty(weight.new_empty(weight.shape[0]), weight, needs_parameters and bias is not None),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.settings = inputs[5:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs_input, needs_offset, needs_mask, needs_weight, needs_bias = ctx.needs_input_grad[:5]
    needs = (needs_input, needs_offset or needs_mask, needs_weight or needs_bias)
    gradients = _deform_conv2d_backward(grad, *ctx.saved_tensors, *ctx.settings, *needs)
    is_needed = ctx.needs_input_grad[:5]
    return (*(g if needed else None for g, needed in zip(gradients, is_needed, strict=True)), *[None] * 8)


def _twice(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
    raise NotImplementedError("deform_conv2d is differentiable once: its backward pass has no gradient")


torch.library.register_autograd(qualified(_deform_conv2d), _backward, setup_context=_setup_context)
torch.library.register_autograd(qualified(_deform_conv2d_backward), _twice)


def _autocast(device: str) -> Callable[..., Tensor]:
    def cast(
        input: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None, *settings: int
    ) -> Tensor:
        dtype = input.dtype
        if dtype != torch.float64:
            dtype = torch.get_autocast_dtype(device) if device == "cuda" else torch.float32
        others = _match(offset, mask, weight, bias, dtype)
        with torch.autocast(device, enabled=False):
            return _deform_conv2d(input.to(dtype), *others, *settings).to(_wide(dtype))

    return cast


LIBRARY.impl("deform_conv2d", _autocast("cpu"), "AutocastCPU")
LIBRARY.impl("deform_conv2d", _autocast("cuda"), "AutocastCUDA")
