"""LVIS as it is evaluated: pictures, and annotations under the category numbers of the file."""

import os
from collections.abc import Mapping
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from maskrcnn_benchmark.data.datasets.coco_json import addressed_file, load_coco_json
from maskrcnn_benchmark.data.datasets.image_file import read_rgb
from maskrcnn_benchmark.data.datasets.prepare import ConvertCocoPolysToMask
from maskrcnn_benchmark.data.transforms.transforms import Transform


class LvisDetection(Dataset):
    """Item i -> (image, dict, i) with `boxes` (N, 4) xyxy, LVIS categories as `labels` (N,), `image_id`, `area`.

    The boxes are those of the original picture: the transforms act on the image alone. For training, LVIS is read by
    the classes for COCO-style files.

    Args:
        img_folder: the folder that holds train2017 and val2017.
        ann_file: a published LVIS file, or one with file names such as val2017/000000397133.jpg in place of addresses.
        transforms: called as `image, _ = transforms(image, None)`; None leaves the PIL image.
        other: arguments that only other datasets of the list read.
    """

    def __init__(
        self,
        img_folder: str | os.PathLike[str],
        ann_file: str | os.PathLike[str],
        transforms: Transform | None = None,
        return_masks: bool = False,
        **other: Any,
    ):
        self.root = os.fspath(img_folder)
        self.ann_file = os.fspath(ann_file)
        self.lvis = load_coco_json(ann_file)
        self.ids = sorted(self.lvis.imgs)
        self.id_to_img_map = dict(enumerate(self.ids))
        self.transforms = transforms
        self.prepare = ConvertCocoPolysToMask(return_masks)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int):
        image_id = self.ids[index]
        image, target = self.prepare(
            self.get_raw_image(index), {"image_id": image_id, "annotations": self.lvis.imgToAnns[image_id]}
        )
        if self.transforms is not None:
            image, _ = self.transforms(image, None)
        return image, target, index

    def get_raw_image(self, index: int) -> Image.Image:
        """The picture before the transforms."""
        return read_rgb(self.image_path(self.get_img_info(index)))

    def image_path(self, record: Mapping[str, Any]) -> str:
        """Path of the picture of a record: its address names the folder and the file, whatever its `file_name` is."""
        return os.path.join(self.root, addressed_file(record))

    def get_img_info(self, index: int) -> dict[str, Any]:
        """The file's record of picture number `index`: at least `height` and `width`."""
        return self.lvis.imgs[self.ids[index]]

    def categories(self) -> dict[int, str]:
        """LVIS category -> name, ascending."""
        return {category: record["name"] for category, record in sorted(self.lvis.cats.items())}
