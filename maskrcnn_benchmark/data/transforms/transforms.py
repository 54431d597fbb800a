"""Joint transforms of a picture and its boxes: `transform(image, target) -> (image, target)`.

`image` is a PIL image up to `ToTensor`, a float tensor (3, H, W) afterwards. `target` is a BoxList, a dict (evaluation
sets that keep the original frame) or None; only a BoxList follows the geometry of the picture.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as F

from maskrcnn_benchmark.structures.bounding_box import FLIP_LEFT_RIGHT, BoxList

Transform = Callable[[Any, Any], tuple[Any, Any]]


class Compose:
    """Applies the transforms one after another."""

    def __init__(self, transforms: Sequence[Transform]):
        self.transforms = list(transforms)

    def __call__(self, image, target=None):
        for transform in self.transforms:
            image, target = transform(image, target)
        return image, target

    def __repr__(self) -> str:
        return "Compose(\n" + "".join(f"    {transform}\n" for transform in self.transforms) + ")"


def resized_shape(width: int, height: int, min_size: int, max_size: int | None) -> tuple[int, int]:
    """(H, W) after the shorter side became `min_size`, or less where the longer side would pass `max_size`.

    Sizes are truncated, not rounded, as in maskrcnn-benchmark.
    """
    short, long = min(width, height), max(width, height)
    if max_size is not None and long / short * min_size > max_size:
        min_size = max(1, int(round(max_size * short / long)))
    if short == min_size:
        return height, width
    if width < height:
        return int(min_size * height / width), min_size
    return min_size, int(min_size * width / height)


class Resize:
    """Scales the shorter side to one of `min_size`, drawn anew for every picture, the longer side capped at `max_size`.

    Args:
        min_size: one length in pixels, or several to draw from.
        max_size: upper bound of the longer side, None for no bound.
        restrict: distort every picture to (min_size, max_size), the aspect ratio aside.
    """

    def __init__(self, min_size: int | Sequence[int], max_size: int | None, restrict: bool = False):
        self.min_size = tuple(min_size) if isinstance(min_size, (list, tuple)) else (min_size,)
        if not self.min_size or any(size <= 0 for size in self.min_size):
            raise ValueError(f"min_size={min_size!r}: give one or more positive lengths in pixels")
        if max_size is not None and max_size <= 0:
            raise ValueError(f"max_size={max_size!r}: give a positive length in pixels, or None for no bound")
        if restrict and max_size is None:
            raise ValueError("restrict=True needs max_size, the width of every picture")
        self.max_size = max_size
        self.restrict = restrict

    def get_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of the picture -> (height, width) of the result. Draws once from `random`."""
        min_size = random.choice(self.min_size)
        if self.restrict:
            return min_size, self.max_size
        return resized_shape(*image_size, min_size, self.max_size)

    def __call__(self, image: Image.Image, target=None):
        height, width = self.get_size(image.size)
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        if isinstance(target, BoxList):
            target = target.resize(image.size)
        return image, target

    def __repr__(self) -> str:
        return f"Resize(min_size={self.min_size}, max_size={self.max_size}, restrict={self.restrict})"


class RandomFlip:
    """Flips picture and boxes with probability `prob`, in the way that subclasses say."""

    def __init__(self, prob: float = 0.5):
        if not 0.0 <= prob <= 1.0:
            raise ValueError(f"prob={prob} is not a probability")
        self.prob = prob

    def flip(self, image: Image.Image, target):
        """The flipped picture and target."""
        raise NotImplementedError

    def __call__(self, image: Image.Image, target=None):
        return self.flip(image, target) if random.random() < self.prob else (image, target)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(prob={self.prob})"


class RandomHorizontalFlip(RandomFlip):
    """Mirrors picture and boxes with probability `prob`.

    A field that holds text (data.datasets.directional_caption.DirectionalCaption) is mirrored by BoxList.transpose.
    """

    def flip(self, image: Image.Image, target):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image, target.transpose(FLIP_LEFT_RIGHT) if isinstance(target, BoxList) else target


class ToTensor:
    """PIL image -> float32 tensor (3, H, W), RGB in [0, 1]."""

    def __call__(self, image: Image.Image, target=None):
        if image.mode != "RGB":
            return F.to_tensor(image), target
        # The same numbers as to_tensor's, in half the time: one copy fewer, and divided in place.
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255), target

    def __repr__(self) -> str:
        return "ToTensor()"


class Normalize:
    """(x - mean) / std, in the channel order and range named by `format`.

    Args:
        mean, std: one number per channel, in the order of `format`.
        format: contains "bgr" to reverse the channels, "255" to scale [0, 1] to [0, 255]; "rgb" does neither.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], format: str = "rgb"):
        if len(mean) != len(std):
            raise ValueError(f"mean has {len(mean)} channels, std has {len(std)}")
        if any(value == 0 for value in std):
            raise ValueError(f"std={list(std)} contains a zero")
        self.mean = torch.tensor(mean, dtype=torch.float32)[:, None, None]
        self.std = torch.tensor(std, dtype=torch.float32)[:, None, None]
        self.format = format.lower()

    def __call__(self, image: Tensor, target=None):
        channels = image.unbind()[::-1] if "bgr" in self.format else image.unbind()
        result = torch.empty_like(image)
        scale = 255 if "255" in self.format else 1
        for plane, channel, mean, std in zip(result, channels, self.mean, self.std, strict=True):
            torch.mul(channel, scale, out=plane).sub_(mean).div_(std)  # a channel after the other stays in the cache
        return result, target

    def __repr__(self) -> str:
        mean, std = self.mean.flatten().tolist(), self.std.flatten().tolist()
        return f"Normalize(mean={mean}, std={std}, format={self.format!r})"
