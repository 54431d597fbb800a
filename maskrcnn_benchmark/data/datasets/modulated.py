"""Grounding data: one record per sentence, boxes linked to spans of it (JSON format of MDETR)."""

import os
import random
from collections.abc import Mapping
from typing import Any

from torch.utils.data import Dataset

from maskrcnn_benchmark.data.datasets.caption_packing import ForeignCaptions
from maskrcnn_benchmark.data.datasets.coco_json import has_valid_annotation, load_coco_json
from maskrcnn_benchmark.data.datasets.directional_caption import transform_with_caption
from maskrcnn_benchmark.data.datasets.image_file import read_rgb
from maskrcnn_benchmark.data.datasets.packed_annotations import load_packed_coco_json
from maskrcnn_benchmark.data.datasets.prepare import ConvertCocoPolysToMask, attach_fields, without_spans
from maskrcnn_benchmark.data.transforms.transforms import Transform
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.text.positive_map import create_positive_map

NOTHING_MASKED = (-1, -1, -1)  # as a greenlight span: masked language modelling leaves this caption alone
SENTENCE_KEYS = ("sentence_id", "original_img_id", "original_id", "task_id")
MAX_DRAWS = 20  # records tried for the caption of another picture


class GroundingJson(Dataset):
    """Item i -> (image, BoxList with caption and token maps, i). Subclasses say where a record's picture lies.

    Records without a usable box are left out, at test time too.

    Args:
        ann_file: MDETR-style JSON file.
        transforms: joint transforms; None leaves the PIL image.
        return_tokens, tokenizer, max_query_len: see ConvertCocoPolysToMask.
        is_train: True keeps the annotations packed; False adds the maps of `tokens_positive_eval`, not to mixed data.
        no_mask_for_gold: keep masked language modelling away from these captions.
        flip_caption_aware: exchange left and right in the caption when the transforms mirror the picture.
        foreign_captions: in training, puts captions of other pictures beside the own one, or in its place.
        other: arguments that only other datasets of the list read.
    """

    def __init__(
        self,
        ann_file: str | os.PathLike[str],
        transforms: Transform | None = None,
        return_masks: bool = False,
        return_tokens: bool = True,
        is_train: bool = False,
        tokenizer=None,
        disable_clip_to_image: bool = False,
        no_mask_for_gold: bool = False,
        max_query_len: int = 256,
        flip_caption_aware: bool = False,
        min_keypoints: int = 0,
        foreign_captions: ForeignCaptions | None = None,
        **other: Any,
    ):
        self.ann_file = os.fspath(ann_file)
        self.coco = load_packed_coco_json(ann_file) if is_train else load_coco_json(ann_file)
        self.ids = [i for i in sorted(self.coco.imgs) if has_valid_annotation(self.coco.imgToAnns[i], min_keypoints)]
        self.id_to_img_map = dict(enumerate(self.ids))
        self.transforms = transforms
        self.tokenizer = tokenizer
        self.is_train = is_train
        self.disable_clip_to_image = disable_clip_to_image
        self.no_mask_for_gold = no_mask_for_gold
        self.max_query_len = max_query_len
        self.flip_caption_aware = flip_caption_aware
        self.foreign_captions = foreign_captions if is_train else None
        self.prepare = ConvertCocoPolysToMask(return_masks, return_tokens, tokenizer, max_query_len)

    def __len__(self) -> int:
        return len(self.ids)

    def image_path(self, record: Mapping[str, Any]) -> str:
        """Path of the picture of a record."""
        raise NotImplementedError

    def get_img_info(self, index: int) -> dict[str, Any]:
        """The file's record of sentence number `index`: at least `height`, `width` and `caption`."""
        return self.coco.imgs[self.ids[index]]

    def __getitem__(self, index: int):
        record = self.get_img_info(index)
        image = read_rgb(self.image_path(record))
        caption, annotations = self._caption(record), self.coco.imgToAnns[self.ids[index]]
        greenlight_spans = [(0, len(caption))]
        if self.foreign_captions is not None:
            mixed = self.foreign_captions.around(caption, lambda: self._other_caption(record), self.tokenizer)
            caption, greenlight_spans = mixed.text, [mixed.scored_span]
            annotations = [_shifted(annotation, mixed.offset) for annotation in annotations] if mixed.is_own else []
        if self.no_mask_for_gold:
            greenlight_spans.append(NOTHING_MASKED)
        image, fields = self.prepare(
            image,
            {
                "image_id": self.ids[index],
                "annotations": annotations,
                "caption": caption,
                "greenlight_span_for_masked_lm_objective": greenlight_spans,
            },
            box_format="xywh",
        )
        if self.is_train and "tokens_positive" not in fields:
            raise without_spans(annotations[0])
        target = BoxList(fields["boxes"], image.size, mode="xyxy")
        target.add_field("labels", fields["labels"])
        if not self.disable_clip_to_image:
            target = target.clip_to_image(remove_empty=True)
        if self.transforms is not None:
            follow = self.prepare.text_maps if self.flip_caption_aware else None
            image, target, fields = transform_with_caption(
                self.transforms, image, target, fields, greenlight_spans, follow
            )
        attach_fields(target, fields)
        self._add_record_fields(target, record)
        return image, target, index

    def _other_caption(self, record: Mapping[str, Any]) -> str:
        """The caption of a random record, if possible of another picture: a picture may have several captions."""
        for _ in range(MAX_DRAWS):
            other = self.get_img_info(random.randrange(len(self)))
            if other["file_name"] != record["file_name"]:
                break
        return self._caption(other)

    def _caption(self, record: Mapping[str, Any]) -> str:
        if "caption" not in record:
            raise ValueError(
                f"image {record.get('id')!r} of {self.ann_file} has no caption (classes alone: type grounding)"
            )
        return record["caption"]

    def _add_record_fields(self, target: BoxList, record: Mapping[str, Any]) -> None:
        """Adds what an evaluation needs to know of the record; sets for training alone have nothing of it."""


def _shifted(annotation: Mapping[str, Any], offset: int) -> dict[str, Any]:
    """The annotation in a text where its caption starts at character `offset`."""
    spans = {
        key: [(begin + offset, end + offset) for begin, end in annotation[key]]
        for key in ("tokens", "tokens_positive")
        if key in annotation
    }
    return {**annotation, **spans}


class ModulatedDataset(GroundingJson):
    """Grounding data whose pictures lie in one folder; targets have the names of their sentence (SENTENCE_KEYS)."""

    def __init__(self, img_folder: str | os.PathLike[str], ann_file: str | os.PathLike[str], *args: Any, **kwargs: Any):
        super().__init__(ann_file, *args, **kwargs)
        self.root = os.fspath(img_folder)

    def image_path(self, record: Mapping[str, Any]) -> str:
        return os.path.join(self.root, record["file_name"])

    def _add_record_fields(self, target: BoxList, record: Mapping[str, Any]) -> None:
        """Adds the names of the sentence, and the map of its phrases."""
        target.add_field("dataset_name", record.get("dataset_name"), per_box=False)
        for key in SENTENCE_KEYS:
            if key in record:
                target.add_field(key, record[key], per_box=False)
        if "tokens_positive_eval" in record and not self.is_train:
            spans = record["tokens_positive_eval"]
            encoding = self.tokenizer(record["caption"], return_tensors="pt")
            positive_map = create_positive_map(encoding, spans, max_tokens=self.max_query_len)
            target.add_field("positive_map_eval", positive_map, per_box=False)
            target.add_field("nb_eval", len(spans), per_box=False)


class FlickrDataset(ModulatedDataset):
    """Flickr30k Entities sentences."""


class RefExpDataset(ModulatedDataset):
    """RefCOCO, RefCOCO+ and RefCOCOg expressions."""


class GQADataset(ModulatedDataset):
    """GQA sentences."""


class PhrasecutDetection(ModulatedDataset):
    """PhraseCut phrases."""


class MixedDataset(GroundingJson):
    """Sentences over pictures of COCO and of Visual Genome; `data_source` of the record says which. For training alone.

    Args:
        img_folder_coco, img_folder_vg: the two folders.
        ann_file, transforms, return_masks, return_tokens, tokenizer, disable_clip_to_image, no_mask_for_gold,
            max_query_len, options: see GroundingJson.
    """

    def __init__(
        self,
        img_folder_coco: str | os.PathLike[str],
        img_folder_vg: str | os.PathLike[str],
        ann_file: str | os.PathLike[str],
        transforms: Transform | None = None,
        return_masks: bool = False,
        return_tokens: bool = True,
        tokenizer=None,
        disable_clip_to_image: bool = False,
        no_mask_for_gold: bool = False,
        max_query_len: int = 256,
        **options: Any,
    ):
        options |= {"tokenizer": tokenizer, "disable_clip_to_image": disable_clip_to_image}
        options |= {"no_mask_for_gold": no_mask_for_gold, "max_query_len": max_query_len}
        super().__init__(ann_file, transforms, return_masks, return_tokens, **options)
        self.root_coco = os.fspath(img_folder_coco)
        self.root_vg = os.fspath(img_folder_vg)

    def image_path(self, record: Mapping[str, Any]) -> str:
        root = self.root_coco if record.get("data_source") == "coco" else self.root_vg
        return os.path.join(root, record["file_name"])
