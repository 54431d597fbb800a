"""Pooling of regions: RoIAlign (arXiv:1703.06870) and RoIPool (arXiv:1504.08083)."""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from torch import Tensor

from maskrcnn_benchmark.ops import library


def roi_align(
    input: Tensor,
    rois: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    *,
    aligned: bool = False,
) -> Tensor:
    """Averages bilinear samples in the bins of every region.

    Args:
        input: (B, C, H, W).
        rois: (R, 5), image index then xyxy in pixels of the picture, of any floating dtype. They get no gradient.
        output_size: bins (vertical, horizontal).
        spatial_scale: of the map against the picture, 1 / stride.
        sampling_ratio: samples per bin and axis; 0 takes one per cell of the map.
        aligned: shift by half a cell and allow regions smaller than a cell (RoIAlignV2).

    Returns: (R, C, *output_size) in the dtype of the input, under autocast as well; 16-bit numbers are computed in
        float32.
    Raises: ValueError for shapes that do not fit; on the CPU RuntimeError for a region of an image that is not in the
        batch. Elsewhere the result of such a region is undefined.
    """
    _check(input, rois)
    return _align(input, rois, spatial_scale, *output_size, sampling_ratio, aligned)


def roi_pool(input: Tensor, rois: Tensor, output_size: tuple[int, int], spatial_scale: float) -> Tensor:
    """Takes the maximum in the bins of every region; the arguments are those of `roi_align`."""
    _check(input, rois)
    with torch.autocast(input.device.type, enabled=False):
        return torchvision.ops.roi_pool(input, rois.to(input.dtype), output_size, spatial_scale)


def _check(input: Tensor, rois: Tensor) -> None:
    if input.dim() != 4:
        raise ValueError(f"input must have the shape (B, C, H, W), got {tuple(input.shape)}")
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(f"rois must have the shape (R, 5) (image index, x1, y1, x2, y2), got {tuple(rois.shape)}")


def _plain_align(
    input: Tensor, rois: Tensor, spatial_scale: float, height: int, width: int, sampling_ratio: int, aligned: bool
) -> Tensor:
    wide = input.to(library.accumulate_dtype(input.dtype))
    size = (height, width)
    return torchvision.ops.roi_align(wide, rois.to(wide.dtype), size, spatial_scale, sampling_ratio, aligned).to(
        input.dtype
    )


def _plain_gradient(
    grad: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
    *shape: int,
) -> Tensor:
    wide = grad.to(library.accumulate_dtype(grad.dtype))
    return torch.ops.torchvision._roi_align_backward(
        wide, rois.to(wide.dtype), spatial_scale, pooled_height, pooled_width, *shape, sampling_ratio, aligned
    ).to(grad.dtype)


_align = library.define(
    "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
    _plain_align,
)
_gradient = library.define(
    "_roi_align_backward(Tensor grad, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
    "int sampling_ratio, bool aligned, int batch_size, int channels, int height, int width) -> Tensor",
    _plain_gradient,
)


@library.fake(_align)
def _(input: Tensor, rois: Tensor, spatial_scale: float, height: int, width: int, *options: Any) -> Tensor:
    return input.new_empty((rois.shape[0], input.shape[1], height, width))


@library.fake(_gradient)
def _(grad: Tensor, rois: Tensor, *options: Any) -> Tensor:
    return grad.new_empty(options[-4:])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, rois, *ctx.options = inputs
    ctx.shape = input.shape
    ctx.save_for_backward(rois)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _gradient(grad, *ctx.saved_tensors, *ctx.options, *ctx.shape), *[None] * 6


library.autograd(_align, _backward, _save)
