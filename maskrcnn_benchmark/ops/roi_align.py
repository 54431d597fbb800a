"""Pooling of regions: RoIAlign (arXiv:1703.06870) and RoIPool (arXiv:1504.08083)."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor


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
        rois: (R, 5), image index then xyxy in pixels of the picture.
        output_size: bins (vertical, horizontal).
        spatial_scale: of the map against the picture, 1 / stride.
        sampling_ratio: samples per bin and axis; 0 takes one per cell of the map.
        aligned: shift by half a cell and allow regions smaller than a cell (RoIAlignV2).

    Returns: (R, C, *output_size) in the dtype of the input.
    Raises: ValueError for shapes that do not fit.
    """
    _check(input, rois)
    with torch.autocast(input.device.type, enabled=False):
        return torchvision.ops.roi_align(
            input, rois.to(input.dtype), output_size, spatial_scale, sampling_ratio, aligned
        )


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
