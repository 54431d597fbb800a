"""Captions with boxes of a teacher model, in TSV files."""

import os
import random
from collections.abc import Collection, Mapping
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset

from maskrcnn_benchmark.data.datasets.caption_packing import ForeignCaptions, PackSize
from maskrcnn_benchmark.data.datasets.caption_record import (
    FORMATS,
    CaptionRecord,
    answer_as_mask,
    read_caption,
    read_caption_record,
    screen,
)
from maskrcnn_benchmark.data.datasets.directional_caption import transform_with_caption
from maskrcnn_benchmark.data.datasets.prepare import ConvertCocoPolysToMask, attach_fields
from maskrcnn_benchmark.data.datasets.tsv_parts import Paths
from maskrcnn_benchmark.data.datasets.tsv_rows import TSVRows, read_descriptor
from maskrcnn_benchmark.data.transforms.transforms import Transform
from maskrcnn_benchmark.structures.bounding_box import BoxList

MAX_DRAWS = 1000
"""Rows tried in place of one with too few boxes."""

_BOX_LABEL = 1  # boxes of captions have no classes


class PseudoLabelledCaptions(Dataset):
    """Item i -> (image, BoxList with caption and token maps, index of the row that was used).

    A row with too few boxes gives way to another one, drawn at random. Boxes are clamped into the picture; those that
    lose their inside go, with their phrases.

    Args:
        yaml_file: names the files, see tsv_rows.Descriptor; for the labels see caption_record.
        transforms: joint transforms; None leaves the PIL image.
        return_tokens, tokenizer, max_query_len: see ConvertCocoPolysToMask.
        caption_min_box: boxes that a picture needs, before and after the screening.
        replace_clean_label: read the label file whose path has "clean_label" in place of "raw_label".
        further_screen: keep boxes with scores above `caption_conf`, and suppress repeated ones at the IoU `caption_nms`
            if that is positive.
        caption_format_version: v1 or v2, see read_caption_record.
        inference_caption: captions alone (see read_caption), for finding boxes with a model: no boxes, no screening,
            nothing foreign, no question.
        flip_caption_aware: exchange left and right in the caption when the transforms mirror the picture.
        other: arguments that only other datasets of the list read.
    Raises: ValueError for a descriptor without labels, or not of the kind that the options ask for.
    """

    def __init__(
        self,
        yaml_file: str | os.PathLike[str],
        transforms: Transform | None = None,
        return_tokens: bool = True,
        return_masks: bool = False,
        tokenizer=None,
        caption_min_box: int = 1,
        replace_clean_label: bool = False,
        further_screen: bool = False,
        caption_conf: float = 0.5,
        caption_nms: float = -1.0,
        caption_format_version: str = "v1",
        max_query_len: int = 256,
        inference_caption: bool = False,
        flip_caption_aware: bool = False,
        **other: Any,
    ):
        if caption_format_version not in FORMATS:
            raise ValueError(f"caption_format_version={caption_format_version!r}: known are {', '.join(FORMATS)}")
        self.tsv = TSVRows(yaml_file, _clean_label_file(yaml_file) if replace_clean_label else None)
        if self.tsv.labels is None:
            raise ValueError(f"{self.tsv.yaml_file} names no label file, which holds the captions")
        self.transforms = transforms
        self.tokenizer = tokenizer
        self.caption_min_box = caption_min_box
        self.further_screen = further_screen
        self.caption_conf = caption_conf
        self.caption_nms = caption_nms
        self.caption_format_version = caption_format_version
        self.max_query_len = max_query_len
        self.inference_caption = inference_caption
        self.flip_caption_aware = flip_caption_aware
        self.prepare = ConvertCocoPolysToMask(return_masks, return_tokens, tokenizer, max_query_len)

    def __len__(self) -> int:
        return len(self.tsv)

    def __getitem__(self, index: int):
        if self.inference_caption:
            caption = self.caption(index)
            return self._target_item(index, CaptionRecord(caption, [], [], []), (0, len(caption)))
        for _ in range(MAX_DRAWS):
            record = self.usable_record(index)
            if record is not None:
                return self._item(index, record)
            index = random.randrange(len(self))
        raise ValueError(
            f"{MAX_DRAWS} rows of {self.tsv.yaml_file} have less than {self.caption_min_box} usable boxes "
            "(DATASETS.CAPTION_MIN_BOX, CAPTION_CONF, CAPTION_NMS)"
        )

    def usable_record(self, index: int) -> CaptionRecord | None:
        """Caption and boxes of a row after the screening; None if they are too few."""
        label = self.label(index)
        if len(label["bboxes"]) < self.caption_min_box:  # in format v2 these are phrases
            return None
        record = read_caption_record(label, self.caption_format_version)
        if self.further_screen:
            record = screen(record, self.caption_conf, self.caption_nms)
        return record if len(record.boxes) >= self.caption_min_box else None

    def label(self, index: int, keys: Collection[str] = ("caption", "bboxes", "tokens_positive")) -> Mapping[str, Any]:
        """The label row. Raises: ValueError, with the row, if one of the keys is missing."""
        label = self.tsv.label(index)
        missing = [key for key in keys if not isinstance(label, dict) or key not in label]
        if missing:
            raise ValueError(f"item {index} ({self.tsv.key(index)}) of {self.tsv.yaml_file} has no {missing[0]!r}")
        return label

    def caption(self, index: int) -> str:
        """The caption of a row, with or without boxes. Raises: ValueError, with the row, if it has none."""
        try:
            return read_caption(self.tsv.label(index))
        except ValueError as error:
            raise ValueError(f"item {index} ({self.tsv.key(index)}) of {self.tsv.yaml_file}: {error}") from error

    def get_raw_image(self, index: int) -> Image.Image:
        """The picture before the transforms."""
        return self.tsv.image(index)

    def get_img_id(self, index: int) -> str:
        """The key of the label row."""
        return self.tsv.key(index)

    def get_img_info(self, index: int) -> dict[str, Any]:
        """`height`, `width` and `key` of a picture."""
        height, width = self.tsv.size(index)
        return {"height": height, "width": width, "key": self.tsv.key(index)}

    def _item(self, index: int, record: CaptionRecord):
        return self._target_item(index, record, (0, len(record.caption)))

    def _target_item(self, index: int, record: CaptionRecord, greenlight_span: tuple[int, int]):
        """The item of a record, of whose caption masked language modelling scores the words in `greenlight_span`."""
        image = self.tsv.image(index)
        boxes = self.tsv.boxes(index, record.boxes)
        target = BoxList(boxes, record.size or image.size, mode="xyxy")
        target.add_field("labels", torch.full((len(boxes),), _BOX_LABEL))
        target.add_field("row", torch.arange(len(boxes)))
        target = target.clip_to_image(remove_empty=True)
        record = record.select(target.extra_fields.pop("row").tolist())
        annotations = [
            {
                "area": area,
                "iscrowd": 0,
                "image_id": index,
                "category_id": _BOX_LABEL,
                "bbox": box,
                "tokens_positive": phrases,
            }
            for box, area, phrases in zip(target.bbox.tolist(), target.area().tolist(), record.spans, strict=True)
        ]
        described = {
            "image_id": index,
            "annotations": annotations,
            "caption": record.caption,
            "greenlight_span_for_masked_lm_objective": [greenlight_span],
        }
        _, fields = self.prepare(image, described, box_format="xyxy")
        if self.transforms is not None:
            follow = self.prepare.text_maps if self.flip_caption_aware else None
            image, target, fields = transform_with_caption(
                self.transforms, image, target, fields, [greenlight_span], follow
            )
        attach_fields(target, fields)
        return image, target, index


class CaptionTSV(PseudoLabelledCaptions):
    """Pseudo-labelled captions with foreign captions beside them.

    Args:
        pack_random_caption_number, random_pack_prob, no_random_pack_probability: see PackSize.
        safeguard_positive_caption: leave out foreign captions that would push the own one over `max_query_len` tokens.
        sample_negative_for_grounding_data: probability of an item without boxes under a foreign caption.
        mlm_obj_for_only_positive: masked language modelling scores the words of the own caption only.
        options: see PseudoLabelledCaptions.
    """

    def __init__(
        self,
        yaml_file: str | os.PathLike[str],
        *args: Any,
        pack_random_caption_number: int = 0,
        random_pack_prob: float = -1.0,
        no_random_pack_probability: float = 0.0,
        safeguard_positive_caption: bool = True,
        sample_negative_for_grounding_data: float = -1.0,
        mlm_obj_for_only_positive: bool = False,
        **options: Any,
    ):
        super().__init__(yaml_file, *args, **options)
        self.foreign_captions = ForeignCaptions(
            PackSize(pack_random_caption_number, random_pack_prob, no_random_pack_probability),
            sample_negative_for_grounding_data,
            keep_own=safeguard_positive_caption,
            max_tokens=self.max_query_len,
            score_own_only=mlm_obj_for_only_positive,
        )

    def _item(self, index: int, record: CaptionRecord):
        mixed = self.foreign_captions.around(record.caption, lambda: self._other_caption(index), self.tokenizer)
        if not mixed.is_own:
            record = record.select([])
        return self._target_item(index, record.shifted(mixed.text, mixed.offset), mixed.scored_span)

    def _other_caption(self, index: int) -> str:
        """The caption of a random row, another one than `index` where there is one."""
        other = random.randrange(max(len(self) - 1, 1))
        if other >= index and len(self) > 1:
            other += 1
        return self.label(other, ("caption",))["caption"]


class PseudoData(PseudoLabelledCaptions):
    """Pseudo-labelled captions as they are, or questions whose answers are to be found.

    Args:
        diver_box_for_vqa: captions are "QUESTION ANSWER" and rows have the question as `text`: the answer becomes a
            mask token, and the boxes of its phrases those of the mask.
        options: see PseudoLabelledCaptions.
    """

    def __init__(self, yaml_file: str | os.PathLike[str], *args: Any, diver_box_for_vqa: bool = False, **options: Any):
        super().__init__(yaml_file, *args, **options)
        self.diver_box_for_vqa = diver_box_for_vqa

    def _item(self, index: int, record: CaptionRecord):
        if self.diver_box_for_vqa:
            mask = getattr(self.tokenizer, "mask_token", None) or "answer"
            record = answer_as_mask(record, self.label(index, ("text",))["text"], mask)
        return super()._item(index, record)


def _clean_label_file(yaml_file: str | os.PathLike[str]) -> Paths:
    """The label file with "clean_label" in place of "raw_label"; ValueError if its path has no "raw_label"."""
    files = read_descriptor(yaml_file).label or ""
    paths = (files,) if isinstance(files, str) else files
    wrong = [path for path in paths if "raw_label" not in path]
    if wrong:
        raise ValueError(f"DATASETS.REPLACE_CLEAN_LABEL: the label file {wrong[0]!r} is not named 'raw_label'")
    clean = tuple(path.replace("raw_label", "clean_label") for path in paths)
    return clean[0] if isinstance(files, str) else clean
