"""LVIS annotation files (arXiv:1908.03195): which classes were looked for in which image, and what was found."""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_utils

FREQUENCIES = ("r", "c", "f")  # rare, common, frequent
NEEDED_KEYS = {
    "images": ("id", "neg_category_ids", "not_exhaustive_category_ids"),
    "categories": ("id", "frequency"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area"),
}


class FederatedTruth(NamedTuple):
    """A file as arrays; images and categories by their position among the ascending ids.

    Attributes:
        image_ids, category_ids: ascending ids of the file.
        frequencies: (K,) letter of every category.
        images, categories: (G,) position of image and category of every annotation.
        boxes: (G, 4) x, y, width, height; areas: (G,) of the outline; is_ignored: (G,) bool.
        negatives, incomplete: pairs `image * K + category`, ascending, that were verified absent, and those of which
            not every instance is annotated.
    """

    image_ids: list[Any]
    category_ids: list[Any]
    frequencies: np.ndarray
    images: np.ndarray
    categories: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    is_ignored: np.ndarray
    negatives: np.ndarray
    incomplete: np.ndarray


class LVIS:
    """An LVIS file with its indices; the interface is the historical one.

    Args:
        annotation_path: JSON file, or its parsed content.
    Attributes:
        dataset: the content. anns, imgs, cats: records by id.
        img_ann_map: image id -> its annotations. cat_img_map: category id -> image id of every annotation of it.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON, lacks a key of LVIS, repeats an id, or names an image or category that it
            does not have.
    """

    def __init__(self, annotation_path: str | os.PathLike[str] | Mapping[str, Any]):
        if isinstance(annotation_path, Mapping):
            self.source, self.dataset = "LVIS annotations", dict(annotation_path)
        else:
            self.source = os.fspath(annotation_path)
            try:
                self.dataset = json.loads(Path(annotation_path).read_text(encoding="utf-8-sig"))
            except json.JSONDecodeError as error:
                raise ValueError(f"annotation file {self.source} is not valid JSON: {error}") from error
        self.imgs = self._by_id("images")
        self.cats = self._by_id("categories")
        self.anns = self._by_id("annotations")
        self.img_ann_map: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        self.cat_img_map: dict[Any, list[Any]] = defaultdict(list)
        for annotation in self.anns.values():
            for key, known in (("image_id", self.imgs), ("category_id", self.cats)):
                if annotation[key] not in known:
                    raise ValueError(
                        f"{self.source}: annotation {annotation['id']} has {key} {annotation[key]!r}, "
                        f"which is not among the {len(known)} of the file"
                    )
            self.img_ann_map[annotation["image_id"]].append(annotation)
            self.cat_img_map[annotation["category_id"]].append(annotation["image_id"])

    def _by_id(self, section: str) -> dict[Any, dict[str, Any]]:
        records = self.dataset.get(section) if isinstance(self.dataset, dict) else None
        if not isinstance(records, list):
            raise ValueError(f"{self.source} is not in LVIS format: it has no list of {section}")
        by_id: dict[Any, dict[str, Any]] = {}
        for record in records:
            for key in NEEDED_KEYS[section]:
                if key not in record:
                    raise ValueError(f"{self.source} is not in LVIS format: {section} {record.get('id')} has no {key}")
            if record["id"] in by_id:
                raise ValueError(f"{self.source}: the id {record['id']!r} comes twice among the {section}")
            by_id[record["id"]] = record
        return by_id

    def get_ann_ids(
        self,
        img_ids: Iterable[Any] | None = None,
        cat_ids: Iterable[Any] | None = None,
        area_rng: tuple[float, float] | None = None,
    ) -> list[Any]:
        """Ids of the annotations of these images and categories, with low < area < high (`area_rng`); None: all."""
        annotations: Iterable[dict[str, Any]] = self.anns.values()
        if img_ids is not None:
            annotations = (annotation for image_id in img_ids for annotation in self.img_ann_map.get(image_id, ()))
        if cat_ids is not None:
            wanted = set(cat_ids)
            annotations = (annotation for annotation in annotations if annotation["category_id"] in wanted)
        if area_rng is not None:
            low, high = area_rng
            annotations = (annotation for annotation in annotations if low < annotation["area"] < high)
        return [annotation["id"] for annotation in annotations]

    def get_cat_ids(self) -> list[Any]:
        """All category ids, in the order of the file."""
        return list(self.cats)

    def get_img_ids(self) -> list[Any]:
        """All image ids, in the order of the file."""
        return list(self.imgs)

    def load_anns(self, ids: Sequence[Any] | None = None) -> list[dict[str, Any]]:
        """Records of these annotations, or of all."""
        return _records(self.anns, ids)

    def load_cats(self, ids: Sequence[Any] | None = None) -> list[dict[str, Any]]:
        """Records of these categories, or of all."""
        return _records(self.cats, ids)

    def load_imgs(self, ids: Sequence[Any] | None = None) -> list[dict[str, Any]]:
        """Records of these images, or of all."""
        return _records(self.imgs, ids)

    def ann_to_rle(self, ann: Mapping[str, Any]) -> dict[str, Any]:
        """The mask of an annotation (polygons or run lengths), compressed."""
        image = self.imgs[ann["image_id"]]
        outline = ann["segmentation"]
        if isinstance(outline, list):
            return mask_utils.merge(mask_utils.frPyObjects(outline, image["height"], image["width"]))
        if isinstance(outline["counts"], list):
            return mask_utils.frPyObjects(outline, image["height"], image["width"])
        return outline

    def ann_to_mask(self, ann: Mapping[str, Any]) -> np.ndarray:
        """The mask of an annotation: (H, W) of 0 and 1."""
        return mask_utils.decode(self.ann_to_rle(ann))

    @cached_property
    def truth(self) -> FederatedTruth:
        """What an evaluation needs, as arrays."""
        image_ids, category_ids = sorted(self.imgs), sorted(self.cats)
        image_number = {image_id: number for number, image_id in enumerate(image_ids)}
        category_number = {category_id: number for number, category_id in enumerate(category_ids)}
        annotations = list(self.anns.values())
        letters = [self.cats[category_id]["frequency"] for category_id in category_ids]
        if unknown := sorted({str(letter) for letter in letters} - set(FREQUENCIES)):
            raise ValueError(f"{self.source}: frequency {unknown[0]!r} of a category is none of {FREQUENCIES}")

        def pairs(key: str) -> np.ndarray:
            found = [
                image_number[image_id] * len(category_ids) + category_number[category_id]
                for image_id in image_ids
                for category_id in self.imgs[image_id][key]
                if category_id in category_number
            ]
            return np.unique(np.array(found, dtype=np.int64))

        return FederatedTruth(
            image_ids,
            category_ids,
            np.array(letters),
            np.array([image_number[annotation["image_id"]] for annotation in annotations], dtype=np.int64),
            np.array([category_number[annotation["category_id"]] for annotation in annotations], dtype=np.int64),
            np.array([annotation["bbox"] for annotation in annotations], dtype=np.float64).reshape(-1, 4),
            np.array([annotation["area"] for annotation in annotations], dtype=np.float64),
            np.array([bool(annotation.get("ignore", 0)) for annotation in annotations], dtype=bool),
            pairs("neg_category_ids"),
            pairs("not_exhaustive_category_ids"),
        )


def _records(by_id: Mapping[Any, dict[str, Any]], ids: Sequence[Any] | None) -> list[dict[str, Any]]:
    return list(by_id.values()) if ids is None else [by_id[record_id] for record_id in ids]
