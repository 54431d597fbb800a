"""Detection data in TSV files: closed-set, and told as grounding data while they are read."""

import math
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset
from torchvision.transforms import functional as F

from maskrcnn_benchmark.data.datasets.modulated import NOTHING_MASKED
from maskrcnn_benchmark.data.datasets.prepare import ConvertCocoPolysToMask, attach_fields
from maskrcnn_benchmark.data.datasets.tsv_rows import BACKGROUND, TSVRows, read_label_map
from maskrcnn_benchmark.data.grounding.od_to_grounding import SampledPrompt, needed_probabilities
from maskrcnn_benchmark.data.transforms.transforms import Transform
from maskrcnn_benchmark.structures.bounding_box import BoxList

LABEL_FIELDS = ("class",)
"""What of an object can become a field of the target."""


class ODTSVDataset(Dataset):
    """Item i -> (image, BoxList with field `labels`, i, scale).

    The scale is the root of the picture's area after the transforms by that before, 1.0 without transforms.

    A label row holds a list of objects, or `{"objects": [...]}`; an object has its `class` name and `rect`, the
    inclusive corners [x1, y1, x2, y2] in pixels. Groups are boxes like all others. Boxes are clamped into the picture
    and none is dropped. Label 0 is the background.

    Args:
        yaml_file: names the files, see tsv_rows.Descriptor; it must have a label map.
        extra_fields: of the objects to read, from LABEL_FIELDS; the classes are always read.
        transforms: joint transforms; None leaves the PIL image.
        is_load_label: False gives empty targets, and needs no label file.
        name: of the dataset, for messages.
        other: arguments that only other datasets of the list read.
    Raises: ValueError for a descriptor without label map and for fields that cannot be read.
    """

    def __init__(
        self,
        yaml_file: str | os.PathLike[str],
        extra_fields: Collection[str] = (),
        transforms: Transform | None = None,
        is_load_label: bool = True,
        name: str = "",
        **other: Any,
    ):
        if unknown := sorted(set(extra_fields) - set(LABEL_FIELDS)):
            raise ValueError(f"extra_fields names {unknown[0]!r}; known are {', '.join(LABEL_FIELDS)} (MODEL.MASK_ON)")
        self.tsv = TSVRows(yaml_file)
        self.name = name or os.fspath(yaml_file)
        self.transforms = transforms
        self.is_load_label = is_load_label
        self.class_to_ind: dict[str, int] = {}
        if is_load_label:
            if self.tsv.files.labelmap is None:
                raise ValueError(f"{self.tsv.yaml_file} names no labelmap (or jsondict) for its class names")
            self.class_to_ind = read_label_map(self.tsv.files.labelmap)
        self.ind_to_class = {label: name for name, label in self.class_to_ind.items()}

    def __len__(self) -> int:
        return len(self.tsv)

    def __getitem__(self, index: int):
        image = self.tsv.image(index)
        target = self.read_target(index, image.size)
        scale = 1.0
        if self.transforms is not None:
            width, height = image.size
            image, target = self.transforms(image, target)
            scale = math.sqrt(math.prod(F.get_image_size(image)) / (width * height))
        return image, target, index, scale

    def read_target(self, index: int, image_size: tuple[int, int]) -> BoxList:
        """The boxes of an item, xyxy, with their labels; image_size is (width, height).

        Raises: ValueError for a class that the label map does not have, and for a box that is not four numbers.
        """
        objects = self._objects(index) if self.is_load_label else []
        boxes = self.tsv.boxes(index, [item["rect"] for item in objects])
        target = BoxList(boxes, image_size, mode="xyxy")
        labels = [self._label(item["class"], index) for item in objects]
        target.add_field("labels", torch.tensor(labels, dtype=torch.int64))
        return target.clip_to_image(remove_empty=False)

    def get_img_info(self, index: int) -> dict[str, Any]:
        """`height`, `width` and `key` of a picture."""
        height, width = self.tsv.size(index)
        return {"height": height, "width": width, "key": self.tsv.key(index)}

    def categories(self) -> dict[int, str]:
        """Label -> name, without the background."""
        return {label: name for label, name in sorted(self.ind_to_class.items()) if name != BACKGROUND}

    def _objects(self, index: int) -> Sequence[Mapping[str, Any]]:
        label = self.tsv.label(index)
        return label["objects"] if isinstance(label, dict) else label

    def _label(self, name: str, index: int) -> int:
        if name not in self.class_to_ind:
            raise ValueError(f"picture {self.tsv.key(index)!r} of {self.name}: no class {name!r} in the label map")
        return self.class_to_ind[name]


class CocoDetectionTSV(ODTSVDataset):
    """Item i -> (image, BoxList with caption and token maps, i).

    The caption names the classes of the picture and a sample of absent ones, see SampledPrompt. Pictures without a box
    stay: their captions name absent classes only.

    Args:
        name: of the dataset, for messages.
        yaml_file, transforms, extra_fields: see ODTSVDataset.
        return_tokens, tokenizer, max_query_len: see ConvertCocoPolysToMask.
        random_sample_negative, control_probabilities, add_detection_prompt, disable_shuffle, separation_tokens,
            max_num_labels, negative_pool: see SampledPrompt.
        disable_clip_to_image: keep the boxes without an inside.
        no_mask_for_od: keep masked language modelling away from these captions.
        add_detection_prompt_advanced, use_od_data_aug, prompt_engineer_version, prompt_limit_negative,
            positive_question_probability, negative_question_probability, full_question_probability: without effect, as
            in the original, whose order of arguments this is.
        other: arguments that only other datasets of the list read.
    Raises: ValueError without the four control probabilities, unless `disable_shuffle` leaves nothing to sample.
    """

    def __init__(
        self,
        name: str = "",
        yaml_file: str | os.PathLike[str] = "",
        transforms: Transform | None = None,
        return_tokens: bool = True,
        tokenizer=None,
        extra_fields: Collection[str] = LABEL_FIELDS,
        random_sample_negative: int = -1,
        add_detection_prompt: bool = False,
        add_detection_prompt_advanced: bool = False,
        use_od_data_aug: bool = False,
        control_probabilities: Sequence[float] = (),
        disable_shuffle: bool = False,
        prompt_engineer_version: str = "v2",
        prompt_limit_negative: int = -1,
        positive_question_probability: float = 0.6,
        negative_question_probability: float = 0.8,
        full_question_probability: float = 0.5,
        disable_clip_to_image: bool = False,
        separation_tokens: str = " ",
        no_mask_for_od: bool = False,
        max_num_labels: int = -1,
        max_query_len: int = 256,
        negative_pool: str = "legacy",
        return_masks: bool = False,
        **other: Any,
    ):
        super().__init__(yaml_file, extra_fields, transforms, name=name)
        self.disable_clip_to_image = disable_clip_to_image
        self.no_mask_for_od = no_mask_for_od
        self.prepare = ConvertCocoPolysToMask(return_masks, return_tokens, tokenizer, max_query_len)
        self.prompt = SampledPrompt(
            self.ind_to_class,
            tokenizer,
            max_tokens=max_query_len,
            max_num_labels=max_num_labels,
            random_sample_negative=random_sample_negative,
            negative_pool=negative_pool,
            control_probabilities=needed_probabilities(control_probabilities, disable_shuffle, self.name),
            disable_shuffle=disable_shuffle,
            add_detection_prompt=add_detection_prompt,
            separation=separation_tokens,
        )

    def __getitem__(self, index: int):
        image = self.tsv.image(index)
        target = self.read_target(index, image.size)
        if not self.disable_clip_to_image:
            target = target.clip_to_image(remove_empty=True)
        image_id = self.image_id(index)
        target, grounded = self.prompt(target, image_id)
        fields = self.prepare(
            image,
            {
                "image_id": image_id,
                "annotations": grounded.annotations,
                "caption": grounded.caption,
                "greenlight_span_for_masked_lm_objective": [
                    *grounded.greenlight_spans,
                    *([NOTHING_MASKED] if self.no_mask_for_od else []),
                ],
                "label_to_positions": grounded.label_to_positions,
            },
            box_format="xyxy",
        )[1]
        if self.transforms is not None:
            image, target = self.transforms(image, target)
        attach_fields(target, fields)
        return image, target, index

    def image_id(self, index: int) -> int:
        """The key of the label row, where it is a number, else the index."""
        key = self.tsv.key(index)
        return int(key) if key.removeprefix("-").isdecimal() else index


Object365DetectionTSV = CocoDetectionTSV
VGDetectionTSV = CocoDetectionTSV
