"""Datasets: item i -> (image, BoxList, i)."""

from maskrcnn_benchmark.data.datasets.background import Background
from maskrcnn_benchmark.data.datasets.caption_tsv import CaptionTSV, PseudoData
from maskrcnn_benchmark.data.datasets.coco import COCODataset
from maskrcnn_benchmark.data.datasets.coco_detection import CocoDetectionJson
from maskrcnn_benchmark.data.datasets.coco_grounding import CocoGrounding
from maskrcnn_benchmark.data.datasets.concat import ConcatDataset, CopiedDataset
from maskrcnn_benchmark.data.datasets.lvis import LvisDetection
from maskrcnn_benchmark.data.datasets.modulated import (
    FlickrDataset,
    GQADataset,
    MixedDataset,
    ModulatedDataset,
    PhrasecutDetection,
    RefExpDataset,
)
from maskrcnn_benchmark.data.datasets.od_tsv import (
    CocoDetectionTSV,
    Object365DetectionTSV,
    ODTSVDataset,
    VGDetectionTSV,
)
from maskrcnn_benchmark.data.datasets.prepare import ConvertCocoPolysToMask as ConvertCocoPolysToMask  # no dataset
from maskrcnn_benchmark.data.datasets.voc import PascalVOCDataset

__all__ = [
    "Background",
    "COCODataset",
    "CaptionTSV",
    "CocoDetectionJson",
    "CocoDetectionTSV",
    "CocoGrounding",
    "ConcatDataset",
    "CopiedDataset",
    "FlickrDataset",
    "GQADataset",
    "LvisDetection",
    "MixedDataset",
    "ModulatedDataset",
    "ODTSVDataset",
    "Object365DetectionTSV",
    "PascalVOCDataset",
    "PhrasecutDetection",
    "PseudoData",
    "RefExpDataset",
    "VGDetectionTSV",
]
