"""Pictures that show nothing of interest."""

import os
from typing import Any

import torch
from torch.utils.data import Dataset

from maskrcnn_benchmark.data.datasets.coco_json import image_file, load_coco_json
from maskrcnn_benchmark.data.datasets.image_file import read_rgb
from maskrcnn_benchmark.data.transforms.transforms import Transform
from maskrcnn_benchmark.structures.bounding_box import BoxList


class Background(Dataset):
    """Item i -> (image, BoxList without boxes, i).

    Args:
        ann_file: COCO-style JSON file, of which only the list of images is read.
        root: folder of the pictures.
        transforms: joint transforms; None leaves the PIL image.
        other: arguments that only other datasets of the list read.
    """

    def __init__(
        self,
        ann_file: str | os.PathLike[str],
        root: str | os.PathLike[str],
        transforms: Transform | None = None,
        **other: Any,
    ):
        self.root = os.fspath(root)
        self.records = sorted(load_coco_json(ann_file).imgs.values(), key=lambda record: record["id"])
        self.ids = [record["id"] for record in self.records]
        self.id_to_img_map = dict(enumerate(self.ids))
        self.transforms = transforms

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int):
        image = read_rgb(os.path.join(self.root, image_file(self.records[index])))
        target = BoxList([], image.size)
        target.add_field("labels", torch.zeros(0, dtype=torch.int64))
        if self.transforms is not None:
            image, target = self.transforms(image, target)
        return image, target, index

    def get_img_info(self, index: int) -> dict[str, Any]:
        """The file's record of picture number `index`: at least `height` and `width`."""
        return self.records[index]
