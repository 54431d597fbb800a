"""Closed-set detection data in COCO format: for training without text, and as ground truth of an evaluation."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from maskrcnn_benchmark.data.datasets.coco_json import (
    CategoryNumbering,
    has_valid_annotation,
    image_file,
    is_crowd,
    load_coco_json,
)
from maskrcnn_benchmark.data.datasets.few_shot import IMAGES, FewShotChoice, choose_few_shot
from maskrcnn_benchmark.data.datasets.image_file import read_rgb
from maskrcnn_benchmark.data.datasets.packed_annotations import load_packed_coco_json
from maskrcnn_benchmark.data.transforms.transforms import Transform
from maskrcnn_benchmark.structures.bounding_box import BoxList

BACKGROUND = "__background__"


class COCODataset(Dataset):
    """Item i -> (image, BoxList with field `labels`, i).

    Args:
        ann_file: COCO-style JSON file.
        root: folder of the pictures.
        remove_images_without_annotations: leave out pictures without a usable box.
        transforms: joint transforms; None leaves the PIL image.
        ignore_crowd: drop annotations that mark a group.
        max_box: upper bound on the boxes of a picture, drawn at random; -1 for none.
        few_shot: number of pictures per category, 0 for all; with `few_shot_rule` "instances", of boxes.
        one_hot: accepted for the common argument list; closed-set data have no token map.
        override_category: replaces the file's list of categories.
        shuffle_seed: of the few-shot selection, 0 keeps the file's order.
        class_agnostic: every label becomes 1.
        sample_ratio: not 0 to keep a random part of the boxes: ceil(n * ratio) of them, or exactly ceil(-ratio).
        min_keypoints: visible keypoints a picture needs, where annotations have keypoints.
        first_label: of the first category; beyond 1 behind another dataset with labels of its own.
        is_train: keep the annotations packed, which an evaluation cannot read.
        other: arguments that only other datasets of the list read.
    """

    def __init__(
        self,
        ann_file: str | os.PathLike[str],
        root: str | os.PathLike[str],
        remove_images_without_annotations: bool,
        transforms: Transform | None = None,
        ignore_crowd: bool = True,
        max_box: int = -1,
        few_shot: int = 0,
        one_hot: bool = False,
        override_category: Sequence[Mapping[str, Any]] | None = None,
        shuffle_seed: int = 0,
        class_agnostic: bool = False,
        sample_ratio: float = 0.0,
        min_keypoints: int = 0,
        first_label: int = 1,
        is_train: bool = False,
        few_shot_rule: str = IMAGES,
        **other: Any,
    ):
        self.root = os.fspath(root)
        self.ann_file = os.fspath(ann_file)
        self.coco = load_packed_coco_json(ann_file) if is_train else load_coco_json(ann_file)
        self.transforms = transforms
        self.ignore_crowd = ignore_crowd
        self.max_box = max_box
        self.class_agnostic = class_agnostic
        self.sample_ratio = sample_ratio
        if override_category is not None:
            self.coco.dataset["categories"] = list(override_category)
        self.numbering = CategoryNumbering(self.coco.dataset.get("categories", []), first_label)
        self.ids = sorted(self.coco.imgs)
        if remove_images_without_annotations:
            self.ids = [i for i in self.ids if has_valid_annotation(self.coco.imgToAnns[i], min_keypoints)]
        self.few_shot: FewShotChoice | None = None
        if few_shot > 0:
            self.few_shot = choose_few_shot(
                self.ids, self.coco.imgToAnns, self.numbering, few_shot, shuffle_seed, few_shot_rule, self.ann_file
            )
            self.ids = self.few_shot.image_ids
        self.json_category_id_to_contiguous_id = self.numbering.label_of
        self.contiguous_category_id_to_json_id = self.numbering.id_of
        self.id_to_img_map = dict(enumerate(self.ids))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int):
        image_id = self.ids[index]
        image = read_rgb(os.path.join(self.root, image_file(self.coco.imgs[image_id])))
        annotations = self.coco.imgToAnns[image_id]
        if self.ignore_crowd:
            annotations = [annotation for annotation in annotations if not is_crowd(annotation)]
        target = self._target(annotations, image.size)
        if self.transforms is not None:
            image, target = self.transforms(image, target)
        if self.sample_ratio != 0.0:
            wanted = math.ceil(len(target) * self.sample_ratio if self.sample_ratio > 0 else -self.sample_ratio)
            target = target[torch.randperm(len(target))[:wanted]]
        return image, target, index

    def _target(self, annotations: Sequence[Mapping[str, Any]], image_size: tuple[int, int]) -> BoxList:
        target = boxlist_of_annotations(annotations, image_size)
        labels = [1 if self.class_agnostic else self.numbering.label(annotation) for annotation in annotations]
        target.add_field("labels", torch.tensor(labels, dtype=torch.int64))
        if 0 < self.max_box < len(target):
            target = target[torch.randperm(len(target))[: self.max_box]]
        return target.clip_to_image(remove_empty=True)

    def get_img_info(self, index: int) -> dict[str, Any]:
        """The file's record of picture number `index`: at least `height` and `width`."""
        return self.coco.imgs[self.ids[index]]

    def categories(self, no_background: bool = True) -> dict[int, str]:
        """Label -> name, without background entries unless asked for.

        The category with id 0 counts as background, unless something is annotated with it.
        """
        if not no_background:
            return dict(self.numbering.names)
        is_zero_used = bool(getattr(self.coco, "catToImgs", {}).get(0))
        return {
            label: name
            for label, name in self.numbering.names.items()
            if name != BACKGROUND and (is_zero_used or self.numbering.id_of[label] != 0)
        }


def boxlist_of_annotations(annotations: Sequence[Mapping[str, Any]], image_size: tuple[int, int]) -> BoxList:
    """BoxList (xyxy) of the annotations' xywh boxes; image_size is (width, height)."""
    return BoxList(box_tensor(annotations), image_size, mode="xywh").convert("xyxy")


def box_tensor(annotations: Sequence[Mapping[str, Any]]) -> Tensor:
    """The boxes (N, 4) as the annotations have them.

    Raises: ValueError, with the annotation, for a box that is not made of four numbers.
    """
    boxes = [annotation["bbox"] for annotation in annotations]
    try:
        tensor = torch.tensor(boxes, dtype=torch.float32).reshape(len(boxes), -1)
    except (TypeError, ValueError, RuntimeError):
        tensor = torch.empty(0)
    if tensor.shape == (len(boxes), 4):
        return tensor
    if not boxes:
        return torch.empty(0, 4)
    wrong = next((one for one in annotations if not is_box(one["bbox"])), annotations[0])
    raise ValueError(
        f"annotation {wrong.get('id')} of image {wrong.get('image_id')!r}: {wrong['bbox']!r} is no box of four numbers"
    )


def is_box(box: Any) -> bool:
    """Whether it is a list of four numbers."""
    return isinstance(box, Sequence) and len(box) == 4 and all(isinstance(number, int | float) for number in box)


def xyxy_of_xywh(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """(N, 4) x, y, width, height -> inclusive corners, clamped into a picture of (width, height)."""
    width, height = image_size
    corners = boxes.clone()
    corners[:, 2:] += boxes[:, :2] - 1
    corners[:, 0::2].clamp_(min=0, max=width - 1)
    corners[:, 1::2].clamp_(min=0, max=height - 1)
    return corners
