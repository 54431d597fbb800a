"""The boxes of an item as the annotations have them: before a dataset clips them or leaves any out."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset

from maskrcnn_benchmark.data.datasets.coco_json import is_crowd


def annotated_boxes(dataset: Dataset, index: int) -> list[list[float]]:
    """Boxes xyxy, inclusive pixels, of an item, crowds left out; none where the dataset does not show them.

    Known are datasets with an index of a COCO-style file (`coco` or `lvis`, and `ids`), with TSV rows (`tsv`), and with
    a method `get_groundtruth`.
    Raises: KeyError, TypeError or ValueError for annotations without a box of four numbers.
    """
    for attribute in ("coco", "lvis"):
        file = getattr(dataset, attribute, None)
        if file is not None:
            annotations = file.imgToAnns[dataset.ids[index]]  # type: ignore[attr-defined]
            return [_from_xywh(annotation["bbox"]) for annotation in annotations if not is_crowd(annotation)]
    rows = getattr(dataset, "tsv", None)
    if rows is not None:
        return _of_label(rows.label(index)) if rows.labels is not None else []
    get_groundtruth = getattr(dataset, "get_groundtruth", None)
    return [] if get_groundtruth is None else get_groundtruth(index).convert("xyxy").bbox.tolist()


def _from_xywh(box: Sequence[float]) -> list[float]:
    x, y, width, height = map(float, box)
    return [x, y, x + width - 1, y + height - 1]


def _of_label(label: Any) -> list[list[float]]:
    """The boxes in the label of a TSV row: of objects, of a caption, or of a caption's entities."""
    if isinstance(label, Mapping) and "bboxes" in label:
        boxes = label["bboxes"]
        is_grouped = any(box and isinstance(box[0], Sequence) for box in boxes)
        return [_four(box) for box in (sum(boxes, []) if is_grouped else boxes)]
    objects = label["objects"] if isinstance(label, Mapping) else label
    return [_four(item["rect"]) for item in objects]


def _four(box: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = map(float, box)
    return [x1, y1, x2, y2]
