"""Augmentations beyond resizing and mirroring: colours, cropped regions, pictures turned upside down.

All work on the PIL image, before `ToTensor`, and draw from `random` and from torch's generator.
"""

import random
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms as torchvision_transforms

from maskrcnn_benchmark.data.transforms.transforms import RandomFlip
from maskrcnn_benchmark.structures.bounding_box import FLIP_TOP_BOTTOM, BoxList
from maskrcnn_benchmark.structures.boxlist_ops import boxlist_iou

KEPT_BOXES = "kept_boxes"
"""Field of a cropped target: for every box left, its index among those before (int64)."""

ATTEMPTS = 50  # regions drawn before a picture stays whole
MAX_ASPECT_RATIO = 2.0  # of a region, either way


class ColorJitter:
    """Changes brightness, contrast, saturation and hue by random amounts, in random order.

    Args:
        brightness, contrast, saturation: strength s >= 0; the factor is drawn from [max(0, 1 - s), 1 + s].
        hue: strength up to 0.5, the part of the colour circle by which colours are turned at most.
    """

    def __init__(self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0):
        self.strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        for name, strength in self.strengths.items():
            most = 0.5 if name == "hue" else float("inf")
            if not 0.0 <= strength <= most:
                raise ValueError(f"{name}={strength} is not in [0, {most}]")
        self.jitter = torchvision_transforms.ColorJitter(brightness, contrast, saturation, hue)

    def __call__(self, image: Image.Image, target=None):
        return self.jitter(image), target

    def __repr__(self) -> str:
        return f"ColorJitter({', '.join(f'{name}={value}' for name, value in self.strengths.items())})"


class RandomVerticalFlip(RandomFlip):
    """Turns picture and boxes upside down with probability `prob`; captions stay, even if they say above or below."""

    def flip(self, image: Image.Image, target):
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        if isinstance(target, BoxList):
            target = target.transpose(FLIP_TOP_BOTTOM).convert("xyxy")
            target.bbox[:, 1::2] -= 1  # BoxList keeps the original's coordinates, which are one pixel too low
        return image, target


class RandomCrop:
    """Cuts a random region out of the picture, as SSD does (arXiv:1512.02325, section 2.2).

    A region must overlap every box by an IoU drawn from `min_ious`, and hold the centre of at least one. Boxes whose
    centre it does not hold are dropped, the others cut; the target gets the field KEPT_BOXES. Where no region of
    ATTEMPTS fits, and where the target is not a BoxList, the picture stays whole.

    Args:
        prob: probability of trying.
        min_ious: overlaps to draw from.
        min_size: least width and height of a region, as parts of those of the picture, in (0, 1].
    """

    def __init__(self, prob: float = 0.5, min_ious: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9), min_size: float = 0.3):
        if not 0.0 <= prob <= 1.0:
            raise ValueError(f"prob={prob} is not a probability")
        if not min_ious or not all(0.0 <= iou <= 1.0 for iou in min_ious):
            raise ValueError(f"min_ious={min_ious!r}: give one or more numbers in [0, 1]")
        if not 0.0 < min_size <= 1.0:
            raise ValueError(f"min_size={min_size} is not in (0, 1]")
        self.prob = prob
        self.min_ious = tuple(min_ious)
        self.min_size = min_size

    def __call__(self, image: Image.Image, target=None):
        if not isinstance(target, BoxList) or random.random() >= self.prob:
            return image, target
        min_iou = random.choice(self.min_ious)
        for _ in range(ATTEMPTS):
            region = self.draw_region(*image.size)
            if region is None:
                continue
            cropped = crop_boxes(target, region, min_iou)
            if cropped is not None:
                return image.crop(region), cropped
        return image, target

    def draw_region(self, width: int, height: int) -> tuple[int, int, int, int] | None:
        """(left, top, right, bottom) in pixels, right and bottom exclusive; None if it came out too narrow."""
        new_width = max(1, round(random.uniform(self.min_size, 1.0) * width))
        new_height = max(1, round(random.uniform(self.min_size, 1.0) * height))
        if max(new_width, new_height) > MAX_ASPECT_RATIO * min(new_width, new_height):
            return None
        left, top = random.randint(0, width - new_width), random.randint(0, height - new_height)
        return left, top, left + new_width, top + new_height

    def __repr__(self) -> str:
        return f"RandomCrop(prob={self.prob}, min_ious={self.min_ious}, min_size={self.min_size})"


def crop_boxes(target: BoxList, region: tuple[int, int, int, int], min_iou: float = 0.0) -> BoxList | None:
    """The boxes (xyxy) in the coordinates of a region, with the field KEPT_BOXES; None where RandomCrop refuses it."""
    target = target.convert("xyxy")
    inside = _centres_inside(target.bbox, region)
    if len(target):
        left, top, right, bottom = region
        window = BoxList([[left, top, right - 1, bottom - 1]], target.size)
        if not inside.any() or boxlist_iou(BoxList(target.bbox, target.size), window).min() < min_iou:
            return None
    cropped = target.crop(region)
    cropped.add_field(KEPT_BOXES, torch.arange(len(target)))
    cropped = cropped[inside].clip_to_image(remove_empty=True)
    return cropped if len(cropped) or not len(target) else None


def _centres_inside(boxes: Tensor, region: tuple[int, int, int, int]) -> Tensor:
    """(N, 4) xyxy -> (N,) whether the centre lies in the region."""
    left, top, right, bottom = region
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    return (x >= left) & (x <= right - 1) & (y >= top) & (y <= bottom - 1)
