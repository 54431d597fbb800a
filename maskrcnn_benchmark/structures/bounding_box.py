"""Boxes of one image together with the fields that describe them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FLIP_LEFT_RIGHT = 0
FLIP_TOP_BOTTOM = 1
MODES = ("xyxy", "xywh")


class BoxList:
    """The boxes of one image, its size, and named extra fields such as `labels` and `scores`.

    Coordinates are absolute pixels with inclusive ends: in mode "xyxy" a box from x1 to x2 is x2 - x1 + 1 wide; mode
    "xywh" holds that width. A field has one entry per box and follows indexing, unless it was added with
    ``per_box=False``; such a field describes the image (a caption, say) and is carried along as it is.

    Args:
        bbox: (N, 4) tensor or nested sequence; it is converted to float32. An empty sequence means no boxes.
        image_size: (width, height) of the image in pixels.
        mode: "xyxy" or "xywh".
    Raises: ValueError for another shape of `bbox` or an unknown mode.
    """

    def __init__(self, bbox: Tensor | Sequence, image_size: Sequence[int], mode: str = "xyxy"):
        device = bbox.device if isinstance(bbox, Tensor) else torch.device("cpu")
        boxes = torch.as_tensor(bbox, dtype=torch.float32, device=device)
        if boxes.numel() == 0 and boxes.shape[-1:] != (4,):
            boxes = boxes.reshape(0, 4)
        if boxes.dim() != 2 or boxes.shape[1] != 4:
            raise ValueError(f"boxes must have the shape (N, 4), got {tuple(boxes.shape)}")
        if mode not in MODES:
            raise ValueError(f"unknown box mode {mode!r}; known are {', '.join(MODES)}")
        if len(image_size) != 2:
            raise ValueError(f"image_size must be (width, height), got {image_size!r}")
        self.bbox = boxes
        self.size = (image_size[0], image_size[1])
        self.mode = mode
        self.extra_fields: dict[str, Any] = {}
        self._image_fields: set[str] = set()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What pickle kept, also of a list that the original wrote, which does not tell fields of the image apart."""
        texts = {field for field, data in state["extra_fields"].items() if isinstance(data, str)}
        self.__dict__.update({"_image_fields": texts} | state)

    # Fields

    def add_field(self, field: str, field_data: Any, *, per_box: bool = True) -> None:
        """Sets a field; `per_box` False marks one that belongs to the image and ignores indexing. Text always does."""
        self.extra_fields[field] = field_data
        if per_box and not isinstance(field_data, str):
            self._image_fields.discard(field)
        else:
            self._image_fields.add(field)

    def get_field(self, field: str) -> Any:
        """The data of a field; KeyError lists the fields that exist."""
        if field not in self.extra_fields:
            raise KeyError(f"no field {field!r}; there are {', '.join(sorted(self.extra_fields)) or 'none'}")
        return self.extra_fields[field]

    def has_field(self, field: str) -> bool:
        return field in self.extra_fields

    def fields(self) -> list[str]:
        return list(self.extra_fields)

    def is_per_box(self, field: str) -> bool:
        """Whether a field has one entry per box."""
        return field not in self._image_fields

    def copy_with_fields(self, fields: str | Sequence[str], skip_missing: bool = False) -> BoxList:
        """The same boxes with only the named fields; a missing one is a KeyError unless `skip_missing`."""
        result = BoxList(self.bbox, self.size, self.mode)
        for field in [fields] if isinstance(fields, str) else fields:
            if skip_missing and not self.has_field(field):
                continue
            result.add_field(field, self.get_field(field), per_box=self.is_per_box(field))
        return result

    # Coordinates

    def convert(self, mode: str) -> BoxList:
        """The boxes in another mode with the same fields; returns self when the mode is already right."""
        if mode not in MODES:
            raise ValueError(f"unknown box mode {mode!r}; known are {', '.join(MODES)}")
        if mode == self.mode:
            return self
        if mode == "xyxy":
            boxes = self._xyxy()
        else:
            x1, y1, x2, y2 = self.bbox.unbind(1)
            boxes = torch.stack((x1, y1, x2 - x1 + 1, y2 - y1 + 1), dim=1)
        result = BoxList(boxes, self.size, mode)
        self._share_fields(result)
        return result

    def resize(self, size: Sequence[int], *args: Any, **kwargs: Any) -> BoxList:
        """Boxes for the image resized to (width, height); coordinates are multiplied, fields that can resize do."""
        width_ratio, height_ratio = (float(new) / float(old) for new, old in zip(size, self.size, strict=True))
        scale = self.bbox.new_tensor([width_ratio, height_ratio, width_ratio, height_ratio])
        if width_ratio == height_ratio:
            # A box of the other mode keeps its meaning only under one ratio.
            result = BoxList(self.bbox * width_ratio, size, self.mode)
        else:
            result = BoxList(self._xyxy() * scale, size, "xyxy").convert(self.mode)
        self._transform_fields(result, "resize", size, *args, **kwargs)
        return result

    def transpose(self, method: int) -> BoxList:
        """Boxes for the mirrored image.

        FLIP_LEFT_RIGHT mirrors inclusive pixels (x becomes width - x - 1). FLIP_TOP_BOTTOM lacks the -1, as in the
        original, whose numbers are kept.
        """
        width, height = self.size
        x1, y1, x2, y2 = self._xyxy().unbind(1)
        if method == FLIP_LEFT_RIGHT:
            boxes = torch.stack((width - x2 - 1, y1, width - x1 - 1, y2), dim=1)
        elif method == FLIP_TOP_BOTTOM:
            boxes = torch.stack((x1, height - y2, x2, height - y1), dim=1)
        else:
            raise ValueError(f"unknown flip {method!r}; use FLIP_LEFT_RIGHT (0) or FLIP_TOP_BOTTOM (1)")
        result = BoxList(boxes, self.size, "xyxy").convert(self.mode)
        self._transform_fields(result, "transpose", method)
        return result

    def crop(self, box: Sequence[float]) -> BoxList:
        """Boxes in the coordinates of the region (x1, y1, x2, y2), clamped to it; none is removed."""
        left, top, right, bottom = box
        width, height = right - left, bottom - top
        x1, y1, x2, y2 = self._xyxy().unbind(1)
        boxes = torch.stack(
            (
                (x1 - left).clamp(min=0, max=width),
                (y1 - top).clamp(min=0, max=height),
                (x2 - left).clamp(min=0, max=width),
                (y2 - top).clamp(min=0, max=height),
            ),
            dim=1,
        )
        result = BoxList(boxes, (int(width), int(height)), "xyxy").convert(self.mode)
        self._transform_fields(result, "crop", box)
        return result

    def clip_to_image(self, remove_empty: bool = True) -> BoxList:
        """Clamps the corners to [0, width - 1] x [0, height - 1] in place.

        Returns: self, or with `remove_empty` the boxes that keep x2 > x1 and y2 > y1.
        """
        width, height = self.size
        corners = self._xyxy()
        corners = torch.stack(
            (
                corners[:, 0].clamp(min=0, max=width - 1),
                corners[:, 1].clamp(min=0, max=height - 1),
                corners[:, 2].clamp(min=0, max=width - 1),
                corners[:, 3].clamp(min=0, max=height - 1),
            ),
            dim=1,
        )
        self.bbox.copy_(BoxList(corners, self.size, "xyxy").convert(self.mode).bbox)
        if not remove_empty:
            return self
        return self[(corners[:, 3] > corners[:, 1]) & (corners[:, 2] > corners[:, 0])]

    def area(self) -> Tensor:
        """Area of every box in pixels (N,); inverted boxes can give negative sides."""
        if self.mode == "xyxy":
            x1, y1, x2, y2 = self.bbox.unbind(1)
            return (x2 - x1 + 1) * (y2 - y1 + 1)
        return self.bbox[:, 2] * self.bbox[:, 3]

    # Container

    def to(self, device: torch.device | str, **kwargs: Any) -> BoxList:
        """Boxes and fields on another device; a field moves if it has a method `to`."""
        result = BoxList(self.bbox.to(device, **kwargs), self.size, self.mode)
        for field, data in self.extra_fields.items():
            moved = data.to(device, **kwargs) if hasattr(data, "to") else data
            result.add_field(field, moved, per_box=self.is_per_box(field))
        return result

    def __getitem__(self, item: Any) -> BoxList:
        """Selects boxes, by an index tensor, mask, slice or number; fields follow, except those of the image."""
        if isinstance(item, int):
            item = [item]
        result = BoxList(self.bbox[item], self.size, self.mode)
        for field, data in self.extra_fields.items():
            if not self.is_per_box(field):
                result.add_field(field, data, per_box=False)
            elif isinstance(data, list | tuple):
                result.add_field(field, _select(data, item))
            else:
                result.add_field(field, data[item])
        return result

    def __len__(self) -> int:
        return self.bbox.shape[0]

    def __repr__(self) -> str:
        width, height = self.size
        return f"BoxList(num_boxes={len(self)}, image_width={width}, image_height={height}, mode={self.mode})"

    def _xyxy(self) -> Tensor:
        if self.mode == "xyxy":
            return self.bbox
        x, y, width, height = self.bbox.unbind(1)
        return torch.stack((x, y, x + (width - 1).clamp(min=0), y + (height - 1).clamp(min=0)), dim=1)

    def _share_fields(self, other: BoxList) -> None:
        for field, data in self.extra_fields.items():
            other.add_field(field, data, per_box=self.is_per_box(field))

    def _transform_fields(self, result: BoxList, method: str, *args: Any, **kwargs: Any) -> None:
        """Tensors and fields of the image are copied; other objects (masks) must have the geometric method."""
        for field, data in self.extra_fields.items():
            if self.is_per_box(field) and not isinstance(data, Tensor):
                if not hasattr(data, method):
                    raise TypeError(
                        f"field {field!r} of type {type(data).__name__} has no method {method!r}: "
                        "attach it after the geometric transforms, or as a field of the image (per_box=False)"
                    )
                data = getattr(data, method)(*args, **kwargs)
            result.add_field(field, data, per_box=self.is_per_box(field))


def _select(data: Sequence, item: Any) -> list:
    """Indexes a list by what indexes the boxes: mask, index tensor, sequence, slice or int."""
    positions = torch.arange(len(data))[item.cpu() if isinstance(item, Tensor) else item]
    return [data[int(i)] for i in positions.reshape(-1)]
