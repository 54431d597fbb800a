"""Modules around the pooling of regions."""

from __future__ import annotations

from torch import Tensor, nn

from maskrcnn_benchmark.ops.roi_align import roi_align, roi_pool


class ROIAlign(nn.Module):
    """RoIAlign without the half-pixel shift.

    Args:
        output_size: bins (vertical, horizontal).
        spatial_scale: 1 / stride of the map.
        sampling_ratio: samples per bin and axis; 0 adapts to the region.
    """

    aligned = False

    def __init__(self, output_size: tuple[int, int], spatial_scale: float, sampling_ratio: int):
        super().__init__()
        self.output_size, self.spatial_scale, self.sampling_ratio = output_size, spatial_scale, sampling_ratio

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """input (B, C, H, W), rois (R, 5) of image index and xyxy -> (R, C, *output_size)."""
        return roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, aligned=self.aligned)


class ROIAlignV2(ROIAlign):
    """RoIAlign shifted by half a pixel, as a pixel grid wants it."""

    aligned = True


class ROIPool(nn.Module):
    """RoIPool: the maximum in each bin of rounded corners.

    Args:
        output_size: bins (vertical, horizontal).
        spatial_scale: 1 / stride of the map.
    """

    def __init__(self, output_size: tuple[int, int], spatial_scale: float):
        super().__init__()
        self.output_size, self.spatial_scale = output_size, spatial_scale

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """input (B, C, H, W), rois (R, 5) of image index and xyxy -> (R, C, *output_size)."""
        return roi_pool(input, rois, self.output_size, self.spatial_scale)
