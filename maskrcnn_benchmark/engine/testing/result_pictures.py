"""Pictures of a test set with what was found on them, and with what they show."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from maskrcnn_benchmark.data.datasets.coco_json import is_crowd
from maskrcnn_benchmark.data.datasets.image_file import read_rgb
from maskrcnn_benchmark.data.datasets.lvis import LvisDetection
from maskrcnn_benchmark.data.datasets.modulated import GroundingJson
from maskrcnn_benchmark.data.datasets.od_tsv import ODTSVDataset
from maskrcnn_benchmark.data.picture_files import picture_file
from maskrcnn_benchmark.evaluation.phrase_recall import phrase_ground_truth, phrase_texts
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils.complete_files import atomic_path
from maskrcnn_benchmark.visualization.draw import draw_boxes

DEFAULT_THRESHOLD = 0.5
Boxes = list[tuple[list[float], int]]
"""Corners (xyxy, pixels of the picture) and label."""


def draw_item(
    dataset: Any,
    index: int,
    found: BoxList,
    *,
    threshold: float = DEFAULT_THRESHOLD,
    with_truth: bool = False,
    line_width: int | None = None,
    font_size: int | None = None,
) -> Image.Image:
    """The picture of an item with the boxes whose score is above the threshold.

    Args:
        with_truth: the picture twice, on the right with the boxes of the annotations.
        line_width, font_size: in pixels; by default they follow the size of the picture.
    """
    picture = read_picture(dataset, index)
    names = names_of(dataset, index)
    style = {"line_width": line_width, "font_size": font_size}
    found = found.resize(picture.size).convert("xyxy")
    found = found[found.get_field("scores") > threshold]
    labels, scores = found.get_field("labels").tolist(), found.get_field("scores").tolist()
    texts = [names.get(label, str(label)) for label in labels]
    drawn = draw_boxes(picture, found.bbox.tolist(), texts, scores=scores, color_ids=labels, **style)
    if not with_truth:
        return drawn
    truth = true_boxes(dataset, index)
    texts = [names.get(label, str(label)) for _, label in truth]
    ids = [label for _, label in truth]
    right = draw_boxes(picture, [box for box, _ in truth], texts, color_ids=ids, **style)
    both = Image.new("RGB", (2 * picture.width, picture.height))
    both.paste(drawn, (0, 0))
    both.paste(right, (picture.width, 0))
    return both


def save_pictures(
    dataset: Any, predictions: Iterable[tuple[int, BoxList]], folder: Path, *, count: int, threshold: float
) -> list[Path]:
    """Draws the first `count` items with their truth as folder/INDEX.jpg; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for _, (index, found) in zip(range(count), predictions, strict=False):
        path = folder / f"{index:06d}.jpg"
        save_picture(draw_item(dataset, index, found, threshold=threshold, with_truth=True), path)
        written.append(path)
    return written


def save_picture(picture: Image.Image, path: Path) -> None:
    """Writes a JPEG that is complete as soon as it has its name."""
    with atomic_path(path) as part:
        picture.save(part, format="JPEG", quality=92)


def read_picture(dataset: Any, index: int) -> Image.Image:
    """The picture of an item as its file has it."""
    path = picture_file(dataset, index)
    if path is not None:
        return read_rgb(path)
    if isinstance(dataset, ODTSVDataset):
        return dataset.tsv.image(index)
    raise NotImplementedError(f"pictures of a {type(dataset).__name__} cannot be drawn")


def names_of(dataset: Any, index: int) -> Mapping[int, str]:
    """What the labels of an item stand for: classes, or the phrases of its caption."""
    if not isinstance(dataset, GroundingJson):
        return dataset.categories()
    return phrase_texts(dataset.get_img_info(index))


def true_boxes(dataset: Any, index: int) -> Boxes:
    """What an item shows according to its annotations."""
    record = dataset.get_img_info(index)
    if isinstance(dataset, GroundingJson):
        phrases = phrase_ground_truth(record, dataset.coco.imgToAnns[record["id"]])
        return [(box, label) for label, boxes in enumerate(phrases, 1) for box in boxes.tolist()]
    if isinstance(dataset, LvisDetection):
        annotations = dataset.lvis.imgToAnns[record["id"]]
        label_of = {category: category for category in dataset.lvis.cats}
    elif hasattr(dataset, "json_category_id_to_contiguous_id"):
        annotations, label_of = dataset.coco.imgToAnns[record["id"]], dataset.json_category_id_to_contiguous_id
    else:
        target = _target(dataset, index, (record["width"], record["height"]))
        return _pairs(target.convert("xyxy").bbox, target.get_field("labels"))
    return [
        (_corners(annotation["bbox"]), label_of[annotation["category_id"]])
        for annotation in annotations
        if not is_crowd(annotation) and annotation["category_id"] in label_of
    ]


def _target(dataset: Any, index: int, size: tuple[int, int]) -> BoxList:
    return dataset.read_target(index, size) if isinstance(dataset, ODTSVDataset) else dataset.get_groundtruth(index)


def _pairs(boxes: Tensor, labels: Tensor) -> Boxes:
    return list(zip(boxes.tolist(), labels.tolist(), strict=True))


def _corners(box: list[float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width - 1, y + height - 1]
