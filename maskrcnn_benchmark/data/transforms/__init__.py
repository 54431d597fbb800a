"""Picture and box transforms."""

from maskrcnn_benchmark.data.transforms.build import build_transforms
from maskrcnn_benchmark.data.transforms.transforms import Compose, Normalize, RandomHorizontalFlip, Resize, ToTensor

__all__ = ["Compose", "Normalize", "RandomHorizontalFlip", "Resize", "ToTensor", "build_transforms"]
