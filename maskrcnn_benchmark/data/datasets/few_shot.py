"""The pictures of a few-shot training: a few for every category, chosen by a rule and a seed."""

import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maskrcnn_benchmark.data.datasets.coco_json import (
    Annotation,
    CategoryNumbering,
    is_crowd,
    select_few_shot,
    unlisted_category,
)

IMAGES, INSTANCES = "images", "instances"
FEW_SHOT_RULES = (IMAGES, INSTANCES)
_LISTED = 10  # categories that a warning names

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FewShotChoice:
    """What was chosen.

    Attributes:
        shots, rule, seed: how, see `choose_few_shot`.
        image_ids: the pictures in the order of their choice.
        pictures, boxes: category name -> number of chosen pictures that show it, and of its boxes in them; names that
            several categories have end with "(id ID)".
    """

    shots: int
    rule: str
    seed: int
    image_ids: list[Any]
    pictures: dict[str, int]
    boxes: dict[str, int]


def choose_few_shot(
    image_ids: Sequence[Any],
    annotations_of: Mapping[Any, Sequence[Annotation]],
    numbering: CategoryNumbering,
    shots: int,
    seed: int = 0,
    rule: str = IMAGES,
    name: str = "",
) -> FewShotChoice:
    """Pictures that show every category; a category with less than `shots` in the data gives all, with a warning.

    Args:
        image_ids: candidates in order; a `seed` other than 0 shuffles them with a generator of its own.
        annotations_of: image id -> annotations.
        numbering: of all categories.
        shots: wanted per category.
        rule: what `shots` counts: "images" (the original's) or "instances", boxes that are no crowd.
        name: of the data, for messages.
    Raises: ValueError for another rule, and for a picture of a category that is not listed.
    """
    if rule not in FEW_SHOT_RULES:
        raise ValueError(f"DATASETS.FEW_SHOT_RULE={rule!r}: known are {', '.join(FEW_SHOT_RULES)}")
    shown = {i: {annotation["category_id"] for annotation in annotations_of[i]} for i in image_ids}
    boxes = {i: _boxes_by_category(annotations_of[i]) for i in image_ids}
    if rule == IMAGES:
        chosen = select_few_shot(image_ids, shown, numbering.label_of, shots, seed)
        available = Counter(category for categories in shown.values() for category in categories)
    else:
        chosen = select_instances(image_ids, boxes, numbering.label_of, shots, seed)
        available = sum(boxes.values(), Counter())
    times = Counter(numbering.names.values())
    names = {category: numbering.names[label] for category, label in numbering.label_of.items()}
    names = {category: name if times[name] == 1 else f"{name} (id {category})" for category, name in names.items()}
    _warn_of_too_few({names[category]: available[category] for category in names}, shots, rule, name)
    pictures = Counter(category for i in chosen for category in shown[i])
    chosen_boxes = sum((boxes[i] for i in chosen), Counter())
    return FewShotChoice(
        shots,
        rule,
        seed,
        chosen,
        {name: pictures[category] for category, name in names.items()},
        {name: chosen_boxes[category] for category, name in names.items()},
    )


def select_instances(
    image_ids: Sequence[Any],
    boxes_of: Mapping[Any, Mapping[int, int]],
    category_ids: Mapping[int, Any],
    shots: int,
    seed: int = 0,
) -> list[Any]:
    """Images with at least `shots` boxes of every category, as far as they exist, and few more.

    First, in order, those that bring boxes of a category that lacks some and take none beyond `shots`; then, for the
    categories that still lack some, any that show one. All boxes of an image stay: one that is left out would be
    trained as background.

    Args:
        boxes_of: image id -> number of boxes by category id.
        category_ids, shots, seed: see `choose_few_shot`.
    """
    ids = list(image_ids)
    if seed != 0:
        random.Random(seed).shuffle(ids)
    remaining = dict.fromkeys(category_ids, shots)
    chosen: dict[Any, None] = {}
    for is_exact in (True, False):
        for image_id in ids:
            boxes = boxes_of[image_id]
            if unlisted := sorted(boxes.keys() - remaining.keys()):
                raise unlisted_category(image_id, unlisted[0], len(remaining))
            is_wanted = any(remaining[category] > 0 for category in boxes)
            goes_beyond = any(count > remaining[category] for category, count in boxes.items())
            if image_id in chosen or not is_wanted or (is_exact and goes_beyond):
                continue
            chosen[image_id] = None
            for category, count in boxes.items():
                remaining[category] -= count
    return list(chosen)


def _boxes_by_category(annotations: Sequence[Annotation]) -> Counter[int]:
    return Counter(annotation["category_id"] for annotation in annotations if not is_crowd(annotation))


def _warn_of_too_few(available: Mapping[str, int], shots: int, rule: str, name: str) -> None:
    few = {category: count for category, count in available.items() if count < shots}
    if not few:
        return
    text = ", ".join(f"{category!r} {count}" for category, count in list(few.items())[:_LISTED])
    more = f" and {len(few) - _LISTED} more" if len(few) > _LISTED else ""
    what = "pictures" if rule == IMAGES else "boxes"
    logger.warning(
        "Dataset %s has fewer %s than the %d shots asked for (all of them are used): %s%s",
        name,
        what,
        shots,
        text,
        more,
    )
