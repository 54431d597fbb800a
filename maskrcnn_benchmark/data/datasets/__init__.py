"""Datasets: item i -> (image, BoxList, i)."""

from maskrcnn_benchmark.data.datasets.coco import COCODataset
from maskrcnn_benchmark.data.datasets.modulated import (
    FlickrDataset,
    GQADataset,
    MixedDataset,
    ModulatedDataset,
    PhrasecutDetection,
    RefExpDataset,
)

__all__ = [
    "COCODataset",
    "FlickrDataset",
    "GQADataset",
    "MixedDataset",
    "ModulatedDataset",
    "PhrasecutDetection",
    "RefExpDataset",
]
