"""Detection data in COCO format, told as grounding data: the class names become a caption."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from maskrcnn_benchmark.data.datasets.coco import boxlist_of_annotations
from maskrcnn_benchmark.data.datasets.coco_json import (
    CategoryNumbering,
    has_valid_annotation,
    image_file,
    is_crowd,
    load_coco_json,
)
from maskrcnn_benchmark.data.datasets.few_shot import IMAGES, FewShotChoice, choose_few_shot
from maskrcnn_benchmark.data.datasets.image_file import read_rgb
from maskrcnn_benchmark.data.datasets.modulated import NOTHING_MASKED
from maskrcnn_benchmark.data.datasets.packed_annotations import load_packed_coco_json
from maskrcnn_benchmark.data.datasets.prepare import ConvertCocoPolysToMask, attach_fields
from maskrcnn_benchmark.data.grounding.od_to_grounding import FullPrompt, GroundedCaption, SampledPrompt
from maskrcnn_benchmark.data.transforms.transforms import Transform
from maskrcnn_benchmark.structures.bounding_box import BoxList

Prompt = FullPrompt | SampledPrompt


class CocoGrounding(Dataset):
    """Item i -> (image, BoxList with caption and token maps, i).

    Pictures without a usable box are left out, at test time too.

    Args:
        img_folder, ann_file: the pictures, and their COCO-style annotations.
        transforms: joint transforms; None leaves the PIL image.
        is_train: keep the annotations packed, which an evaluation of detections cannot read.
        return_tokens, tokenizer, max_query_len: see ConvertCocoPolysToMask.
        disable_shuffle: name the classes in ascending order of their labels, not in a random one.
        add_detection_prompt: start the caption with "object detection : ".
        one_hot: for debugging: a token map that has the label in place of the tokens of its name, see one_hot_maps.
        disable_clip_to_image: leave boxes that pass the border as they are.
        no_minus_one_for_one_hot: the column of a label is its own number, not the one before.
        separation_tokens: text between two class names.
        few_shot: number of pictures per category, 0 for all, with `few_shot_rule` "instances" of boxes; shuffle_seed:
            of their selection.
        no_mask_for_od: keep masked language modelling away from these captions.
        override_category: replaces the file's list of categories.
        use_caption_prompt, caption_prompt: prefix, name and suffix for every class in the order of the labels.
        special_safeguard_for_coco_grounding: for long lists of classes: name those of the picture and
            `random_sample_negative` others of `negative_pool` (see NEGATIVE_POOLS), as far as they fit.
        make_prompt: {label: name} -> what writes the captions, instead of one by the options above.
        other: arguments that only other datasets of the list read.
    """

    has_label_map = False  # whether targets say which tokens name which label (positive_map_for_od_labels)

    def __init__(
        self,
        img_folder: str | os.PathLike[str],
        ann_file: str | os.PathLike[str],
        transforms: Transform | None = None,
        return_masks: bool = False,
        return_tokens: bool = True,
        is_train: bool = False,
        tokenizer=None,
        disable_shuffle: bool = False,
        add_detection_prompt: bool = False,
        one_hot: bool = False,
        disable_clip_to_image: bool = False,
        no_minus_one_for_one_hot: bool = False,
        separation_tokens: str = " ",
        few_shot: int = 0,
        no_mask_for_od: bool = False,
        override_category: Sequence[Mapping[str, Any]] | None = None,
        use_caption_prompt: bool = False,
        caption_prompt: Sequence[Mapping[str, str]] | None = None,
        max_query_len: int = 256,
        special_safeguard_for_coco_grounding: bool = False,
        random_sample_negative: int = -1,
        negative_pool: str = "legacy",
        shuffle_seed: int = 0,
        min_keypoints: int = 0,
        few_shot_rule: str = IMAGES,
        make_prompt: Callable[[Mapping[int, str]], Prompt] | None = None,
        **other: Any,
    ):
        self.root = os.fspath(img_folder)
        self.ann_file = os.fspath(ann_file)
        self.coco = load_packed_coco_json(ann_file) if is_train else load_coco_json(ann_file)
        if override_category is not None:
            self.coco.dataset["categories"] = list(override_category)
        self.numbering = CategoryNumbering(self.coco.dataset.get("categories", []))
        self.ids = [i for i in sorted(self.coco.imgs) if has_valid_annotation(self.coco.imgToAnns[i], min_keypoints)]
        self.few_shot: FewShotChoice | None = None
        if few_shot > 0:
            self.few_shot = choose_few_shot(
                self.ids, self.coco.imgToAnns, self.numbering, few_shot, shuffle_seed, few_shot_rule, self.ann_file
            )
            self.ids = self.few_shot.image_ids
        self.id_to_img_map = dict(enumerate(self.ids))
        self.json_category_id_to_contiguous_id = self.numbering.label_of
        self.contiguous_category_id_to_json_id = self.numbering.id_of
        self.ind_to_class = self.numbering.names
        self.transforms = transforms
        self.disable_clip_to_image = disable_clip_to_image
        self.no_mask_for_od = no_mask_for_od
        self.one_hot = one_hot
        self.first_column = 0 if no_minus_one_for_one_hot else 1
        self.max_query_len = max_query_len
        self.prepare = ConvertCocoPolysToMask(return_masks, return_tokens, tokenizer, max_query_len)
        caption_prompt = caption_prompt if use_caption_prompt else None
        if special_safeguard_for_coco_grounding and caption_prompt is not None:
            raise ValueError(
                "special_safeguard_for_coco_grounding samples classes, a caption prompt needs them all: "
                "unset DATASETS.SPECIAL_SAFEGUARD_FOR_COCO_GROUNDING or DATASETS.USE_CAPTION_PROMPT"
            )
        self.prompt: Prompt
        if make_prompt is not None:
            self.prompt = make_prompt(self.numbering.names)
        elif special_safeguard_for_coco_grounding:
            self.prompt = SampledPrompt(
                self.numbering.names,
                tokenizer,
                random_sample_negative=random_sample_negative,
                negative_pool=negative_pool,
                separation=separation_tokens,
                disable_shuffle=disable_shuffle,
                max_tokens=max_query_len,
            )
        else:
            self.prompt = FullPrompt(
                self.numbering.names,
                separation=separation_tokens,
                shuffle=not disable_shuffle,
                add_detection_prompt=add_detection_prompt,
                caption_prompt=caption_prompt,
                tokenizer=tokenizer,
                max_tokens=max_query_len,
            )

    def __len__(self) -> int:
        return len(self.ids)

    def get_img_info(self, index: int) -> dict[str, Any]:
        """The file's record of picture number `index`: at least `height` and `width`."""
        return self.coco.imgs[self.ids[index]]

    def categories(self) -> dict[int, str]:
        """Label -> name."""
        return dict(self.numbering.names)

    def __getitem__(self, index: int):
        image_id = self.ids[index]
        image = read_rgb(os.path.join(self.root, image_file(self.coco.imgs[image_id])))
        annotations = [annotation for annotation in self.coco.imgToAnns[image_id] if not is_crowd(annotation)]
        target = boxlist_of_annotations(annotations, image.size)
        labels = [self.numbering.label(annotation) for annotation in annotations]
        target.add_field("labels", torch.tensor(labels, dtype=torch.int64))
        if not self.disable_clip_to_image:
            target = target.clip_to_image(remove_empty=True)
        target, grounded = self._ground(target, image_id)
        greenlight_spans: list[tuple[int, ...]] = list(grounded.greenlight_spans)
        if self.no_mask_for_od:
            greenlight_spans.append(NOTHING_MASKED)
        image, fields = self.prepare(
            image,
            {
                "image_id": image_id,
                "annotations": grounded.annotations,
                "caption": grounded.caption,
                "greenlight_span_for_masked_lm_objective": greenlight_spans,
                "label_to_positions": grounded.label_to_positions if self.has_label_map else {},
            },
            box_format="xyxy",
        )
        if self.one_hot:
            num_classes = len(self.numbering.names)
            fields |= one_hot_maps(fields["labels"], num_classes, self.first_column, self.max_query_len)
        if self.transforms is not None:
            image, target = self.transforms(image, target)
        attach_fields(target, fields)
        return image, target, index

    def _verified_absent(self, image_id: int | str) -> list[int] | None:
        """Labels that the file says the picture does not show; None where it says nothing."""
        categories = self.coco.imgs[image_id].get("neg_category_ids")
        if categories is None:
            return None
        return [self.numbering.label_of[category] for category in categories if category in self.numbering.label_of]

    def _ground(self, target: BoxList, image_id: int | str) -> tuple[BoxList, GroundedCaption]:
        if isinstance(self.prompt, SampledPrompt):
            return self.prompt(target, image_id, self._verified_absent(image_id))
        return target, self.prompt(target, image_id)


def one_hot_maps(labels: Tensor, num_classes: int, first_column: int, num_tokens: int) -> dict[str, Tensor]:
    """Maps that treat labels as tokens: `positive_map` (N, T), `text_mask` (T,) of the tokens that count.

    Args:
        labels: (N,), of N boxes.
        first_column: label of column 0, which is 1, or 0 for columns with the numbers of the labels; those count all.
    Raises: ValueError if there are more classes than tokens.
    """
    if num_classes + 1 - first_column > num_tokens:
        raise ValueError(
            f"DATASETS.ONE_HOT: {num_classes} classes do not fit into the {num_tokens} columns of a token map"
        )
    positive_map = torch.zeros(len(labels), num_tokens)
    positive_map[torch.arange(len(labels)), labels - first_column] = 1.0
    text_mask = torch.ones(num_tokens)
    if first_column:
        text_mask[num_classes:] = 0.0
    return {"positive_map": positive_map, "text_mask": text_mask}
