"""From the annotations of one picture and its caption to the tensors that a training target carries."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from maskrcnn_benchmark.data.datasets.coco import box_tensor, xyxy_of_xywh
from maskrcnn_benchmark.data.datasets.coco_json import is_crowd
from maskrcnn_benchmark.data.transforms.augment import KEPT_BOXES
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.text.positive_map import create_greenlight_map, create_positive_map, od_label_map
from maskrcnn_benchmark.text.spans import RememberedRanges

NO_OD_LABEL = -10  # of boxes that come from captions; -1 and -100 have other meanings downstream
PER_BOX_FIELDS = frozenset(
    "boxes labels tokens_positive area iscrowd isfinal keypoints positive_map original_od_label".split()
)


class ConvertCocoPolysToMask:
    """(image, {image_id, annotations, caption, ...}) -> (image, dict of tensors). The name is historical.

    Input: `annotations` as in COCO files with `tokens_positive` (or `tokens`), the spans of the caption that name the
    box; optionally `caption`, `greenlight_span_for_masked_lm_objective` (spans) and `label_to_positions`
    (label -> span of the class name).

    Output, for the N boxes that are not crowds and have an inside: `boxes` (N, 4) xyxy, `labels`, `area`, `iscrowd`,
    `original_od_label` (N,), `tokens_positive` (list), `image_id`, `orig_size` = `size` = (H, W); where all have
    them also `isfinal` (N,) and `keypoints` (N, K, 3), x, y and visibility; with a caption and `return_tokens` also the
    maps of `text_maps`.

    Args:
        return_tokens: add the token maps.
        tokenizer: a fast tokenizer, needed for them.
        max_query_len: tokens of the caption that count, and the length of the maps.
    """

    def __init__(
        self, return_masks: bool = False, return_tokens: bool = False, tokenizer=None, max_query_len: int = 256
    ):
        if return_masks:
            raise ValueError("return_masks=True: mask targets are not part of this implementation (MODEL.MASK_ON)")
        self.return_tokens = return_tokens
        self.tokenizer = tokenizer
        self.max_query_len = max_query_len

    def __call__(self, image: Image.Image, target: Mapping[str, Any], box_format: str = "xywh"):
        width, height = image.size
        annotations = [annotation for annotation in target["annotations"] if not is_crowd(annotation)]
        boxes = box_tensor(annotations)
        if box_format == "xywh":
            boxes = xyxy_of_xywh(boxes, image.size)
        elif box_format != "xyxy":
            raise ValueError(f"box_format={box_format!r}: known are 'xywh' and 'xyxy'")

        keep = ((boxes[:, 3] > boxes[:, 1]) & (boxes[:, 2] > boxes[:, 0])).tolist()
        boxes = boxes[keep]
        annotations = [annotation for annotation, is_kept in zip(annotations, keep, strict=True) if is_kept]
        converted: dict[str, Any] = {
            "boxes": boxes,
            "labels": _column(annotations, "category_id", torch.int64),
            "image_id": _image_id(target["image_id"]),
            "area": _column(annotations, "area", torch.float32, 0.0),
            "iscrowd": _column(annotations, "iscrowd", torch.int64, 0),
            "orig_size": torch.tensor([height, width]),
            "size": torch.tensor([height, width]),
            "original_od_label": _column(annotations, "original_od_label", torch.int64, NO_OD_LABEL),
        }
        if "caption" in target:
            converted["caption"] = target["caption"]
        spans = _token_spans(annotations)
        if spans is not None and (annotations or "caption" in target):
            converted["tokens_positive"] = spans
        common = set.intersection(*map(set, annotations)) if annotations else set()
        if "isfinal" in common:
            converted["isfinal"] = _column(annotations, "isfinal", torch.float32)
        if "keypoints" in common:
            converted["keypoints"] = _column(annotations, "keypoints", torch.float32).reshape(len(annotations), -1, 3)
        if self.return_tokens and self.tokenizer is not None:
            converted |= self.text_maps(
                target["caption"],
                spans or [],
                target.get("greenlight_span_for_masked_lm_objective", ()),
                target.get("label_to_positions", {}),
            )
        return image, converted

    def text_maps(
        self,
        caption: str,
        tokens_positive: Sequence[Sequence[Sequence[int]]],
        greenlight_spans: Sequence[Sequence[int]],
        label_to_positions: Mapping[int, Sequence[int]],
    ) -> dict[str, Tensor]:
        """The maps over T = max_query_len tokens.

        Returns: `positive_map` (N, T), rows normalised; `greenlight_map` (T,), -1 nothing may be masked, 1 masked and
        scored, 0 masked only; `positive_map_for_od_labels` (T,), the label whose name the token belongs to, else -1.
        """
        encoding = RememberedRanges(self.tokenizer(caption, max_length=self.max_query_len, truncation=True))
        length = self.max_query_len
        return {
            "positive_map": create_positive_map(encoding, tokens_positive, max_tokens=length),
            "greenlight_map": create_greenlight_map(encoding, greenlight_spans, max_tokens=length),
            "positive_map_for_od_labels": od_label_map(encoding, label_to_positions, max_tokens=length),
        }


def attach_fields(target: BoxList, fields: Mapping[str, Any]) -> None:
    """Adds converted fields to the boxes after the transforms, those of the picture as such; `labels` are there.

    Boxes that a crop dropped take their fields with them.

    Raises: ValueError when the number of boxes changed in another way.
    """
    kept = target.extra_fields.pop(KEPT_BOXES, None)
    if kept is not None:
        fields = {name: _select(value, kept) if name in PER_BOX_FIELDS else value for name, value in fields.items()}
    if len(target) != len(fields["boxes"]):
        raise ValueError(f"{len(target)} boxes are left of {len(fields['boxes'])} converted ones")
    for name, value in fields.items():
        if name != "labels":
            target.add_field(name, value, per_box=name in PER_BOX_FIELDS)


def _select(values: Tensor | list, kept: Tensor) -> Tensor | list:
    return values[kept] if isinstance(values, Tensor) else [values[index] for index in kept.tolist()]


def _image_id(image_id: int | str) -> Tensor | str:
    return torch.tensor([image_id]) if isinstance(image_id, int) else image_id


def _column(
    annotations: Sequence[Mapping[str, Any]], key: str, dtype: torch.dtype, missing: float | None = None
) -> Tensor:
    if missing is None:
        values = [annotation[key] for annotation in annotations]
    else:
        values = [annotation.get(key, missing) for annotation in annotations]
    return torch.tensor(values, dtype=dtype)


def _token_spans(annotations: Sequence[Mapping[str, Any]]) -> list[list[Sequence[int]]] | None:
    """The spans of every box; None where the first annotation has none. `tokens` goes before `tokens_positive`.

    Raises: ValueError where others have none.
    """
    if not annotations:
        return []
    for key in ("tokens", "tokens_positive"):
        if key in annotations[0]:
            if missing := [annotation for annotation in annotations if key not in annotation]:
                raise without_spans(missing[0])
            return [annotation[key] for annotation in annotations]
    return None


def without_spans(annotation: Mapping[str, Any]) -> ValueError:
    """The error of a box that nothing in the caption names."""
    return ValueError(
        f"annotation {annotation.get('id')} of image {annotation.get('image_id')!r} has no tokens_positive, the spans "
        "of the caption that name its box"
    )
