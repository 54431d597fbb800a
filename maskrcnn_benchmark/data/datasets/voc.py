"""PASCAL VOC: one XML file per picture, and lists of the pictures of each split."""

import os
import xml.etree.ElementTree as ElementTree
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset

from maskrcnn_benchmark.data.datasets.image_file import read_rgb
from maskrcnn_benchmark.data.transforms.transforms import Transform
from maskrcnn_benchmark.structures.bounding_box import BoxList

CLASSES = (
    "__background__ ", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""Names by label; the blank after that of the background is the original's."""

_FIRST_PIXEL = 1  # the corners of the files count from 1


class VocAnnotation(NamedTuple):
    """What a file says about a picture.

    Attributes:
        size: (width, height) in pixels.
        boxes: [x1, y1, x2, y2] from 0, both ends inclusive.
        names, is_difficult: class and difficulty of every box.
    """

    size: tuple[int, int]
    boxes: list[list[float]]
    names: list[str]
    is_difficult: list[bool]


def read_voc_annotation(path: str | os.PathLike[str]) -> VocAnnotation:
    """Reads one XML file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not XML or lacks an element; the text names the file and the element.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"annotation file {os.fspath(path)} is not valid XML: {error}") from error

    def text(element: ElementTree.Element, name: str) -> str:
        found = element.findtext(name)
        if found is None:
            raise ValueError(f"annotation file {os.fspath(path)}: <{element.tag}> has no <{name}>")
        return found.strip()

    objects = root.findall("object")
    corners = [f"bndbox/{name}" for name in ("xmin", "ymin", "xmax", "ymax")]
    return VocAnnotation(
        size=(int(text(root, "size/width")), int(text(root, "size/height"))),
        boxes=[[float(text(item, corner)) - _FIRST_PIXEL for corner in corners] for item in objects],
        names=[text(item, "name").lower() for item in objects],
        is_difficult=[item.findtext("difficult", "0").strip() == "1" for item in objects],
    )


class PascalVOCDataset(Dataset):
    """Item i -> (image, BoxList with fields `labels` and `difficult`, i).

    Args:
        data_dir: the folder of a year (VOC2007), with Annotations, ImageSets/Main and JPEGImages.
        split: name of a list in ImageSets/Main, such as "trainval".
        use_difficult: keep the boxes that the files call difficult.
        transforms: joint transforms; None leaves the PIL image.
        other: arguments that only other datasets of the list read.
    Raises: FileNotFoundError if the split has no list.
    """

    CLASSES = CLASSES

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        split: str,
        use_difficult: bool = False,
        transforms: Transform | None = None,
        **other: Any,
    ):
        self.root = os.fspath(data_dir)
        self.image_set = split
        self.keep_difficult = use_difficult
        self.transforms = transforms
        with open(os.path.join(self.root, "ImageSets", "Main", f"{split}.txt"), encoding="utf-8") as lines:
            self.ids = [line.split()[0] for line in lines if line.strip()]
        self.id_to_img_map = dict(enumerate(self.ids))
        self.class_to_ind = {name: label for label, name in enumerate(CLASSES)}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int):
        image = read_rgb(os.path.join(self.root, "JPEGImages", f"{self.ids[index]}.jpg"))
        target = self.get_groundtruth(index).clip_to_image(remove_empty=True)
        if self.transforms is not None:
            image, target = self.transforms(image, target)
        return image, target, index

    def get_groundtruth(self, index: int) -> BoxList:
        """The boxes of a picture (xyxy) as the file has them; ValueError for a class that VOC does not have."""
        annotation = self._annotation(index)
        rows = [
            (box, self._label(name, index), is_difficult)
            for box, name, is_difficult in zip(*annotation[1:], strict=True)
            if self.keep_difficult or not is_difficult
        ]
        target = BoxList([row[0] for row in rows], annotation.size, mode="xyxy")
        target.add_field("labels", torch.tensor([row[1] for row in rows], dtype=torch.int64))
        target.add_field("difficult", torch.tensor([row[2] for row in rows], dtype=torch.bool))
        return target

    def get_img_info(self, index: int) -> dict[str, Any]:
        """`height`, `width` and `id` of picture number `index`."""
        width, height = self._annotation(index).size
        return {"height": height, "width": width, "id": self.ids[index]}

    def map_class_id_to_class_name(self, class_id: int) -> str:
        """The name of a label."""
        return CLASSES[class_id]

    def categories(self) -> dict[int, str]:
        """Label -> name, without the background."""
        return dict(enumerate(CLASSES[1:], start=1))

    def _annotation(self, index: int) -> VocAnnotation:
        return read_voc_annotation(os.path.join(self.root, "Annotations", f"{self.ids[index]}.xml"))

    def _label(self, name: str, index: int) -> int:
        if name not in self.class_to_ind:
            raise ValueError(
                f"picture {self.ids[index]} of {self.root} shows the unknown class {name!r}; "
                f"PASCAL VOC has {', '.join(CLASSES[1:])}"
            )
        return self.class_to_ind[name]
