"""Picture and box transforms."""

from maskrcnn_benchmark.data.transforms.augment import ColorJitter, RandomCrop, RandomVerticalFlip
from maskrcnn_benchmark.data.transforms.build import build_transforms
from maskrcnn_benchmark.data.transforms.transforms import Compose, Normalize, RandomHorizontalFlip, Resize, ToTensor

__all__ = [
    "ColorJitter",
    "Compose",
    "Normalize",
    "RandomCrop",
    "RandomHorizontalFlip",
    "RandomVerticalFlip",
    "Resize",
    "ToTensor",
    "build_transforms",
]
