"""Where the pictures of a dataset lie."""

import os
from collections.abc import Iterable
from typing import Any

from torch.utils.data import Dataset

from maskrcnn_benchmark.data.datasets.coco import COCODataset
from maskrcnn_benchmark.data.datasets.coco_grounding import CocoGrounding
from maskrcnn_benchmark.data.datasets.coco_json import image_file
from maskrcnn_benchmark.data.datasets.concat import CopiedDataset
from maskrcnn_benchmark.data.datasets.lvis import LvisDetection
from maskrcnn_benchmark.data.datasets.modulated import GroundingJson
from maskrcnn_benchmark.data.datasets.voc import PascalVOCDataset

SHOWN = 5


def picture_file(dataset: Dataset | Any, index: int) -> str | None:
    """Path of the picture of an item; None where pictures have no files of their own, or for an unknown dataset."""
    match dataset:
        case CopiedDataset():
            return picture_file(dataset.dataset, index % len(dataset.dataset))
        case GroundingJson() | LvisDetection():
            return dataset.image_path(dataset.get_img_info(index))
        case COCODataset() | CocoGrounding():
            return os.path.join(dataset.root, image_file(dataset.get_img_info(index)))
        case PascalVOCDataset():
            return os.path.join(dataset.root, "JPEGImages", f"{dataset.ids[index]}.jpg")
    return None


def missing_pictures(dataset: Dataset | Any, items: Iterable[int]) -> dict[int, str]:
    """Items whose picture is not there, with the path it should have."""
    files = {index: picture_file(dataset, index) for index in items}
    return {index: path for index, path in files.items() if path is not None and not os.path.exists(path)}


def describe_missing(missing: dict[int, str], count: int) -> str:
    """How many of `count` pictures are missing, and the first of them."""
    names = list(missing.values())
    shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    return f"{len(names)} of {count} pictures are missing: {shown}"
