"""COCO-style annotation files: reading, which pictures to keep, and the numbering of categories."""

import contextlib
import io
import json
import logging
import math
import os
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pycocotools.coco import COCO

logger = logging.getLogger(__name__)

Annotation = Mapping[str, Any]
MIN_SIDE = 1  # pixels; an annotation needs a side beyond this to count


def load_coco_json(ann_file: str | os.PathLike[str]) -> COCO:
    """Index of a COCO-style file, without pycocotools' messages on standard output.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON, has no list of images, gives an id to two of them, or ids of several types, or
            a record has none; the text names it.
    """
    coco = COCO()
    try:
        with open(ann_file, encoding="utf-8-sig") as file:  # with or without a byte order mark, whatever the locale
            coco.dataset = json.load(file)
        if not isinstance(coco.dataset, dict):
            raise TypeError(f"it is of type {type(coco.dataset).__name__}")
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"annotation file {os.fspath(ann_file)} is not valid JSON: {error}") from error
    except KeyError as error:
        raise ValueError(
            f"annotation file {os.fspath(ann_file)} is not in COCO format: a record has no {error}"
        ) from error
    except TypeError as error:  # null for a list, or something else than an object in one
        raise ValueError(
            f"annotation file {os.fspath(ann_file)} is not in COCO format: images, annotations and categories must be "
            f"lists of objects ({error})"
        ) from error
    if "images" not in coco.dataset:
        raise ValueError(f"annotation file {os.fspath(ann_file)} is not in COCO format: it has no list of images")
    if len(coco.imgs) != len(coco.dataset["images"]):
        times = Counter(record["id"] for record in coco.dataset["images"])
        repeated = [image_id for image_id, count in times.items() if count > 1]
        raise ValueError(
            f"annotation file {os.fspath(ann_file)}: {len(repeated)} image ids come more than once: "
            f"{', '.join(map(repr, repeated[:5]))}{' ...' if len(repeated) > 5 else ''}"
        )
    try:
        sorted_ids("image", coco.imgs)
    except ValueError as error:
        raise ValueError(f"annotation file {os.fspath(ann_file)}: {error}") from None
    return coco


def sorted_ids(kind: str, ids: Iterable[Any]) -> list[Any]:
    """Ids of images or categories (`kind`), ascending. Raises: ValueError for ids of several types."""
    ids = list(ids)
    try:
        return sorted(ids)
    except TypeError:
        raise ValueError(
            f"{kind} ids must all be numbers or all be texts, not {', '.join(map(repr, ids[:10]))}"
        ) from None


def check_records(coco: COCO, numbering: "CategoryNumbering | None" = None) -> None:
    """Looks for what an evaluation could only stumble over on its way or at its end.

    Args:
        numbering: gives the labels of the annotations, where they have some; a list without categories is no matter of
            the records.
    Raises: ValueError for an image without its size or with a file name that is no text, for an annotation whose box is
        not four numbers, whose area is no number or whose category has no label, and with `numbering` for ids of
        categories of several types. Ids of annotations that come twice are logged.
    """
    if numbering is not None:
        sorted_ids("category", numbering.label_of)
        _warn_of_annotation_ids(coco)
    for image_id, record in coco.imgs.items():
        size = [record.get(side) for side in ("width", "height")]
        if not all(isinstance(side, int | float) and side > 0 for side in size):
            raise ValueError(f"image {image_id!r} has the width and height {size[0]!r} and {size[1]!r}, not a size")
        if not isinstance(record.get("file_name", ""), str):
            raise ValueError(f"image {image_id!r} has the file_name {record['file_name']!r}, not a text")
    label = numbering.label if numbering is not None and numbering.label_of else None
    for annotation in coco.anns.values():
        box = annotation.get("bbox")
        if not (isinstance(box, list | tuple) and len(box) == 4 and all(map(_is_finite, box))):
            raise ValueError(
                f"annotation {annotation['id']!r} of image {annotation.get('image_id')!r} has the box {box!r}, not "
                "four numbers: x, y, width, height"
            )
        if not (annotation.get("area") is None or _is_finite(annotation["area"])):
            raise ValueError(f"annotation {annotation['id']!r} has the area {annotation['area']!r}, not a number")
        if label is not None and annotation.get("image_id") in coco.imgs and not is_crowd(annotation):
            label(annotation)


def _warn_of_annotation_ids(coco: COCO) -> None:
    """Logs ids that come twice; the figures are those of pycocotools all the same, as published ones are."""
    records = coco.dataset.get("annotations", [])
    if len(coco.anns) != len(records):
        ids = Counter(record["id"] for record in records)
        repeated = [annotation_id for annotation_id, count in ids.items() if count > 1]
        logger.warning(
            "%d annotation ids come more than once, and pycocotools takes the last annotation for all of an id: %s%s; "
            "number the annotations anew",
            len(repeated),
            ", ".join(map(repr, repeated[:5])),
            " ..." if len(repeated) > 5 else "",
        )


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def is_crowd(annotation: Annotation) -> bool:
    """Whether the annotation marks a group of objects; a missing key means no."""
    return bool(annotation.get("iscrowd", 0))


def image_file(record: Mapping[str, Any]) -> str:
    """File of a picture in the folder of its dataset: `file_name`, or where a record has none (the published LVIS
    files) the last two parts of `coco_url`, such as val2017/000000397133.jpg.

    Raises: ValueError for a record with neither.
    """
    if "file_name" in record:
        return record["file_name"]
    return addressed_file(record)


def addressed_file(record: Mapping[str, Any]) -> str:
    """As image_file, but where a record has both a `coco_url` and a `file_name`, the address counts.

    Raises: ValueError for a record with neither.
    """
    if "coco_url" in record:
        return "/".join(record["coco_url"].split("/")[-2:])
    if "file_name" not in record:
        raise ValueError(f"the record of image {record.get('id')} has neither file_name nor coco_url")
    return record["file_name"]


def has_valid_annotation(annotations: Sequence[Annotation], min_keypoints: int = 0) -> bool:
    """Whether a picture is worth training on: some box wider or higher than a pixel, and enough visible keypoints.

    Crowd annotations count, so a picture that shows nothing else stays and yields no boxes.
    Raises: ValueError for a missing box, and for one that is made of something else than numbers.
    """
    if not annotations:
        return False
    try:
        if all(any(side <= MIN_SIDE for side in annotation["bbox"][2:]) for annotation in annotations):
            return False
    except (TypeError, KeyError):
        first = annotations[0]
        boxes = ", ".join(str(annotation.get("bbox")) for annotation in annotations[:5])
        raise ValueError(f"image {first.get('image_id')!r} has boxes that are not four numbers: {boxes}") from None
    if "keypoints" not in annotations[0]:
        return True
    visible = sum(value > 0 for annotation in annotations for value in annotation["keypoints"][2::3])
    return visible >= min_keypoints


def select_few_shot(
    image_ids: Sequence[Any],
    categories_of: Mapping[Any, Iterable[int]],
    category_ids: Iterable[int],
    shots: int,
    shuffle_seed: int = 0,
) -> list[Any]:
    """Images in order, each taken while it shows a category with less than `shots` images; it counts once for each.

    Args:
        image_ids: candidates in order.
        categories_of: image id -> category ids it shows.
        category_ids: all categories.
        shots: images wanted per category.
        shuffle_seed: not 0 to shuffle the candidates first, with a generator of their own.
    Raises: ValueError for an image that shows a category which is not listed.
    """
    remaining = dict.fromkeys(category_ids, shots)
    ids = list(image_ids)
    if shuffle_seed != 0:
        random.Random(shuffle_seed).shuffle(ids)
    selected = []
    for image_id in ids:
        shown = set(categories_of[image_id])
        if unlisted := sorted(shown - remaining.keys()):
            raise unlisted_category(image_id, unlisted[0], len(remaining))
        if any(remaining[category] > 0 for category in shown):
            selected.append(image_id)
            for category in shown:
                remaining[category] -= 1
    return selected


def unlisted_category(image_id: Any, category_id: Any, listed: int) -> ValueError:
    """The error of a few-shot choice that meets a category which is not in the list."""
    return ValueError(
        f"image {image_id} has category {category_id}, which is not in the list of {listed} categories "
        "(DATASETS.OVERRIDE_CATEGORY replaces it); a few-shot choice counts them all"
    )


class CategoryNumbering:
    """Maps the category ids of a file to contiguous labels, in the order of the file's list, and back.

    Args:
        categories: the file's list.
        first_label: of its first category; the original's is 1.
    Raises: ValueError for a category without an id or a name, and for an id that comes twice.
    """

    def __init__(self, categories: Sequence[Mapping[str, Any]], first_label: int = 1):
        for category in categories:
            if not (isinstance(category, Mapping) and "id" in category and isinstance(category.get("name"), str)):
                raise ValueError(f"the category {category!r} needs an id, and a text as its name")
        self.names = {label: category["name"] for label, category in enumerate(categories, start=first_label)}
        self.label_of = {category["id"]: label for label, category in enumerate(categories, start=first_label)}
        self.id_of = {label: category_id for category_id, label in self.label_of.items()}
        if len(self.label_of) != len(categories):
            raise ValueError(f"category ids are not unique: {sorted(category['id'] for category in categories)}")

    def label(self, annotation: Annotation) -> int:
        """The label of an annotation; ValueError when its category is not in the list."""
        category_id = annotation["category_id"]
        if category_id not in self.label_of:
            raise ValueError(
                f"annotation {annotation.get('id')} of image {annotation.get('image_id')} has category {category_id}, "
                f"which is not in the list of {len(self.label_of)} categories (DATASETS.OVERRIDE_CATEGORY replaces it)"
            )
        return self.label_of[category_id]
