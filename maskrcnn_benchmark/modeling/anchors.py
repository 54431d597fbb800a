"""Anchor boxes on the grid of every level of a feature pyramid."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList

logger = logging.getLogger(__name__)

MAX_CACHED_GRIDS = 16


def cell_anchors(stride: int, sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
    """Anchors (A, 4) in xyxy around the first cell of a level, aspect ratios outermost.

    Args:
        stride: side of a cell in pixels; the cell is the box (0, 0, stride - 1, stride - 1).
        sizes: side of a square anchor in pixels.
        aspect_ratios: height over width.
    """
    center = (stride - 1) / 2
    anchors = []
    for ratio in aspect_ratios:
        width = round(math.sqrt(stride**2 / ratio))
        height = round(width * ratio)
        for size in sizes:
            half_width, half_height = ((side * (size / stride) - 1) / 2 for side in (width, height))
            anchors.append((center - half_width, center - half_height, center + half_width, center + half_height))
    return torch.tensor(anchors, dtype=torch.float64).float()


def grid_of_anchors(cell: Tensor, stride: int, height: int, width: int) -> Tensor:
    """Shifts cell anchors (A, 4) over a map -> (height * width * A, 4) in the order y, x, anchor."""
    x = torch.arange(width, device=cell.device, dtype=torch.float32) * stride
    y = torch.arange(height, device=cell.device, dtype=torch.float32) * stride
    y, x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack((x, y, x, y), dim=-1).reshape(-1, 1, 4)
    return (shifts + cell.float()).reshape(-1, 4)


class CellAnchors(nn.Module):
    """The cell anchors of all levels as buffers "0", "1", ...

    They follow from the configuration. A checkpoint that holds others does not change them: it gets a warning.
    """

    def __init__(self, levels: Sequence[Tensor]):
        super().__init__()
        for i, anchors in enumerate(levels):
            self.register_buffer(str(i), anchors)

    def __len__(self) -> int:
        return len(self._buffers)

    def __getitem__(self, level: int) -> Tensor:
        return self.get_buffer(str(level))

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors):
        for name, anchors in self._buffers.items():
            key = prefix + name
            if key not in state_dict:
                missing.append(key)
                continue
            loaded = state_dict[key]
            if loaded.shape != anchors.shape or not torch.allclose(loaded.to(anchors), anchors, atol=1e-3):
                logger.warning(
                    "%s: the anchors of the checkpoint differ from the configured ones and are not loaded: %s, not %s",
                    key,
                    loaded.tolist(),
                    anchors.tolist(),
                )
        extra = (key for key in state_dict if key.startswith(prefix) and key[len(prefix) :] not in self._buffers)
        unexpected.extend(extra if strict else ())


class AnchorGenerator(nn.Module):
    """Anchors for all levels and images.

    Args:
        sizes: per level, the sides of the square anchors in pixels.
        aspect_ratios: height over width, the same on every level.
        anchor_strides: per level, pixels per cell.
        straddle_thresh: anchors that leave the image by that many pixels or more are not visible; negative: all are.
    Raises: ValueError if `sizes` and `anchor_strides` differ in length.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[float] = (1.0,),
        anchor_strides: Sequence[int] = (8, 16, 32, 64, 128),
        straddle_thresh: int = 0,
    ):
        super().__init__()
        if len(sizes) != len(anchor_strides):
            raise ValueError(f"{len(sizes)} levels of anchor sizes {sizes} for {len(anchor_strides)} strides")
        self.strides, self.straddle_thresh = tuple(anchor_strides), straddle_thresh
        self.cell_anchors = CellAnchors(
            [cell_anchors(stride, level, aspect_ratios) for stride, level in zip(anchor_strides, sizes, strict=True)]
        )
        self._grids: dict[tuple, list[Tensor]] = {}

    def num_anchors_per_location(self) -> list[int]:
        """Anchors per cell, for every level."""
        return [len(self.cell_anchors[level]) for level in range(len(self.cell_anchors))]

    def grid_anchors(
        self, feature_sizes: Sequence[tuple[int, int]], device: torch.device | None = None
    ) -> list[Tensor]:
        """Anchors (N_l, 4) in xyxy of every level with a map of (height, width); the last grids are kept for reuse.

        Raises: ValueError if the number of maps differs from the number of levels.
        """
        if len(feature_sizes) != len(self.strides):
            raise ValueError(f"{len(feature_sizes)} feature maps for {len(self.strides)} levels of anchors")
        device = torch.device(device) if device is not None else self.cell_anchors[0].device
        key = (tuple((int(h), int(w)) for h, w in feature_sizes), device)
        if key not in self._grids:
            while len(self._grids) >= MAX_CACHED_GRIDS:
                self._grids.pop(next(iter(self._grids)))
            self._grids[key] = [
                grid_of_anchors(self.cell_anchors[level].to(device), stride, height, width)
                for level, (stride, (height, width)) in enumerate(zip(self.strides, key[0], strict=True))
            ]
        return self._grids[key]

    def forward(self, image_list: ImageList | Tensor, feature_maps: Sequence[Tensor]) -> list[list[BoxList]]:
        """Anchors of every image and level as box lists of the unpadded image, with the field `visibility`.

        Args:
            image_list: the batch; a plain tensor (B, C, H, W), or (C, H, W), counts as pictures without padding.
            feature_maps: per level (B, C, H_l, W_l).
        """
        if isinstance(image_list, Tensor):
            image_sizes = [tuple(image_list.shape[-2:])] * (len(image_list) if image_list.dim() == 4 else 1)
        else:
            image_sizes = image_list.image_sizes
        sizes = [(feature.shape[-2], feature.shape[-1]) for feature in feature_maps]
        grids = self.grid_anchors(sizes, feature_maps[0].device)
        return [[self._level_anchors(grid, int(h), int(w)) for grid in grids] for h, w in image_sizes]

    def _level_anchors(self, grid: Tensor, height: int, width: int) -> BoxList:
        anchors = BoxList(grid, (width, height), mode="xyxy")
        limit = self.straddle_thresh
        if limit < 0:
            visible = torch.ones(len(grid), dtype=torch.bool, device=grid.device)
        else:
            x1, y1, x2, y2 = grid.unbind(1)
            visible = (x1 >= -limit) & (y1 >= -limit) & (x2 < width + limit) & (y2 < height + limit)
        anchors.add_field("visibility", visible)
        return anchors
