"""A batch of pictures of different sizes in one padded tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class ImageList:
    """A padded batch and the sizes of the pictures before padding.

    Args:
        tensors: (B, 3, H, W).
        image_sizes: (height, width) of every picture inside the padding; it lies at the top left.
        names: by which a picture that comes again is known, or None.
    """

    names: list[str] | None = None  # of a pickle that the original wrote

    def __init__(self, tensors: Tensor, image_sizes: Sequence[tuple[int, int]], names: Sequence[str] | None = None):
        self.tensors = tensors
        self.image_sizes = list(image_sizes)
        self.names = None if names is None else list(names)

    def to(self, *args: Any, **kwargs: Any) -> ImageList:
        """The batch on another device or in another dtype (arguments of ``Tensor.to``)."""
        return ImageList(self.tensors.to(*args, **kwargs), self.image_sizes, self.names)

    def pin_memory(self) -> ImageList:
        return ImageList(self.tensors.pin_memory(), self.image_sizes, self.names)

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __repr__(self) -> str:
        return f"ImageList(shape={tuple(self.tensors.shape)}, image_sizes={self.image_sizes})"


def to_image_list(tensors: ImageList | Tensor | Sequence[Tensor], size_divisible: int = 0) -> ImageList:
    """Makes a batch, padding with zeros at the right and the bottom.

    Args:
        tensors: an ImageList, which passes through; a tensor (B, C, H, W) or (C, H, W); or a sequence of (C, H, W).
        size_divisible: height and width of the batch become multiples of it; 0 leaves them.

    Raises:
        TypeError: for another type.
        ValueError: for no pictures, for one without pixels, or where channel counts differ.
    """
    if isinstance(tensors, ImageList):
        return tensors
    if isinstance(tensors, Tensor):
        if tensors.dim() not in (3, 4):
            raise ValueError(f"a batch must have the shape (B, C, H, W), got {tuple(tensors.shape)}")
        tensors = list(tensors) if tensors.dim() == 4 else [tensors]
    if not isinstance(tensors, list | tuple):
        raise TypeError(f"cannot make a batch of images from {type(tensors).__name__}")
    _check_images(tensors)

    sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in tensors]
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    if size_divisible > 0:
        height, width = (math.ceil(n / size_divisible) * size_divisible for n in (height, width))
    padded = [F.pad(image, (0, width - w, 0, height - h)) for image, (h, w) in zip(tensors, sizes, strict=True)]
    return ImageList(torch.stack(padded), sizes)


def _check_images(images: Sequence[Tensor]) -> None:
    if not images:
        raise ValueError("cannot make a batch of no images")
    for i, image in enumerate(images):
        if not isinstance(image, Tensor):
            raise TypeError(f"image {i} is a {type(image).__name__}, not a tensor")
        if image.dim() != 3 or 0 in image.shape:
            raise ValueError(f"image {i} must have the shape (C, H, W) with pixels, got {tuple(image.shape)}")
        if image.shape[0] != images[0].shape[0]:
            raise ValueError(f"image {i} has {image.shape[0]} channels, image 0 has {images[0].shape[0]}")
