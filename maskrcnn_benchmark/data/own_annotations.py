"""Somebody's annotations in COCO format: looked at record by record, and put the way that training reads them.

What cannot be meant is an error that names the record; what has one plain meaning is corrected, and that is said.
"""

import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from tqdm import tqdm

from maskrcnn_benchmark.data.datasets.coco import BACKGROUND
from maskrcnn_benchmark.data.datasets.image_file import picture_size
from maskrcnn_benchmark.data.picture_files import describe_missing
from maskrcnn_benchmark.text.class_names import clean_name, folded_name, has_content, listed
from maskrcnn_benchmark.utils.messages import first_of

Record = dict[str, Any]
Content = dict[str, Any]
_MANY_PICTURES = 2000  # for which a progress bar is shown
_MOST_ID = 2**63

logger = logging.getLogger(__name__)


def read_annotations(path: Path) -> Content:
    """A COCO-format file as it stands. Raises: FileNotFoundError; ValueError for a file that is not in this format."""
    if not path.is_file():
        raise FileNotFoundError(f"the annotations '{path}' are not there")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the annotations '{path}' are no JSON: {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"the annotations '{path}' have no list {key!r}, which the COCO format has")
        if not content[key]:
            raise ValueError(f"the annotations '{path}' have an empty list {key!r}")
        wrong = [record for record in content[key] if not isinstance(record, dict)]
        if wrong:
            raise ValueError(f"the annotations '{path}' have {wrong[0]!r} in the list {key!r}, in place of a record")
    return content


def checked_annotations(path: Path, images: Path, *, sorts_categories: bool = True) -> Content:
    """The images, annotations and categories of a file, with what training and evaluation need and nothing else.

    Categories come in the order of their ids (or else of the file), without an entry for the background, under cleaned
    names; annotations are numbered from 1, and those whose box has nothing inside the picture are left out; sizes that
    the file lacks are those of the pictures in the folder `images`.
    Raises: FileNotFoundError for pictures that are not there; ValueError that names what cannot be used.
    """
    content = read_annotations(path)
    pictures = _checked_images(content["images"], path, images)
    categories = _checked_categories(content, path, sorts_categories)
    return {
        "images": list(pictures.values()),
        "annotations": _checked_boxes(content["annotations"], pictures, categories, path),
        "categories": [{"id": category, "name": name} for category, name in categories.items()],
    }


def _checked_images(records: Sequence[Record], path: Path, folder: Path) -> dict[Any, Record]:
    """Id, file name and size of the pictures by id."""
    found: dict[Any, Record] = {}
    for number, record in enumerate(records):
        image_id, name = record.get("id"), record.get("file_name")
        if not isinstance(image_id, int | str):
            raise ValueError(f"'{path}': image number {number} has the id {image_id!r}, neither a number nor a text")
        _check_range(image_id, f"image number {number}", path)
        if not isinstance(name, str) or not name:
            raise ValueError(f"'{path}': image {image_id!r} has the file_name {name!r}, not the name of a file")
        if image_id in found:
            raise ValueError(f"'{path}': two images have the id {image_id!r}")
        found[image_id] = {"id": image_id, "file_name": name}
    if len({type(image_id) for image_id in found}) > 1:
        raise ValueError(f"'{path}': some images have a number as their id, others a text: use one kind")
    _check_sizes(found, records, path, folder)
    return found


def _check_sizes(found: Mapping[Any, Record], records: Sequence[Record], path: Path, folder: Path) -> None:
    """Adds width and height to the records found, as the pictures have them."""
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder of pictures '{folder}' is not there")
    files = {image_id: folder / record["file_name"] for image_id, record in found.items()}
    missing = {number: str(file) for number, file in enumerate(files.values()) if not file.exists()}
    if missing:
        raise FileNotFoundError(f"'{path}': {describe_missing(missing, len(files))}")
    unknown, others = 0, []
    bar = tqdm(files.items(), desc="pictures", disable=None if len(files) > _MANY_PICTURES else True, leave=False)
    for record, (image_id, file) in zip(records, bar, strict=True):
        height, width = picture_size(file, str(file))
        given = (record.get("width"), record.get("height"))
        if not all(_is_number(side) and side > 0 for side in given):
            unknown += 1
        elif given != (width, height):
            others.append(f"{file.name} is {width}x{height}, not {given[0]}x{given[1]}")
        found[image_id].update(width=width, height=height)
    if others:
        raise ValueError(
            f"'{path}': {len(others)} pictures have another size than the annotations say: {first_of(others)}. The "
            "boxes belong to pictures of another size, or the pictures were turned (EXIF)"
        )
    if unknown:
        logger.warning("'%s': %d images have no size, which is taken from their files", path, unknown)


def _checked_categories(content: Mapping[str, Any], path: Path, is_sorted: bool) -> dict[int, str]:
    """Names by id, in the order of ids or of the file."""
    for number, category in enumerate(content["categories"]):
        if not _is_whole(category.get("id")):
            raise ValueError(
                f"'{path}': category number {number} ({category.get('name')!r}) has the id {category.get('id')!r}, "
                "not a whole number"
            )
        _check_range(category["id"], f"category number {number} ({category.get('name')!r})", path)
    ids = Counter(category["id"] for category in content["categories"])
    if len(ids) < len(content["categories"]):
        raise ValueError(f"'{path}': two categories have the id {ids.most_common(1)[0][0]}")
    given = (annotation.get("category_id") for annotation in content["annotations"])
    used = {category_id for category_id in given if isinstance(category_id, int | str)}  # others cannot be hashed
    background = [
        category
        for category in content["categories"]
        if category["id"] not in used and (category["id"] == 0 or category.get("name") == BACKGROUND)
    ]
    if background:
        logger.warning("'%s': category %r has no box and is taken for the background", path, background[0].get("name"))
    kept = [category for category in content["categories"] if category not in background]
    if is_sorted:
        kept.sort(key=lambda category: category["id"])
    return dict(zip([category["id"] for category in kept], class_names(kept, path), strict=True))


def class_names(categories: Iterable[Record], path: Path) -> list[str]:
    """Cleaned names. Raises: ValueError for a name that is empty, missing or there twice."""
    names: dict[str, Any] = {}
    cleaned = []
    for category in categories:
        name = category.get("name")
        if not isinstance(name, str) or not has_content(clean_name(name)):
            raise ValueError(f"'{path}': category {category['id']} is called {name!r}: give it a name with a word")
        name = " ".join(clean_name(name).split())  # a name that ends with a blank may have no token of its own
        if folded_name(name) in names:
            raise ValueError(
                f"'{path}': categories {names[folded_name(name)]} and {category['id']} are both called {name!r}, which "
                "are one class to the model: rename one of them"
            )
        names[folded_name(name)] = category["id"]
        cleaned.append(name)
    return cleaned


def _checked_boxes(
    annotations: Sequence[Record], pictures: Mapping[Any, Record], categories: Mapping[int, str], path: Path
) -> list[Record]:
    """The boxes with something inside their pictures, numbered from 1, each with its area and whether it is a crowd."""
    kept: list[Record] = []
    empty: list[str] = []
    for number, annotation in enumerate(annotations):
        place = f"annotation {annotation.get('id', f'number {number}')!r} of image {annotation.get('image_id')!r}"
        problem = _problem(annotation, pictures, categories)
        if problem:
            raise ValueError(f"'{path}': {place} {problem}")
        _, _, width, height = annotation["bbox"]
        picture = pictures[annotation["image_id"]]
        if not _is_inside(annotation["bbox"], picture["width"], picture["height"]):
            empty.append(f"{place} has {annotation['bbox']}")
            continue
        area = annotation.get("area")
        kept.append(
            {
                "id": len(kept) + 1,
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "bbox": annotation["bbox"],
                "area": area if _is_number(area) and area > 0 else width * height,
                "iscrowd": int(annotation.get("iscrowd") or 0),
            }
        )
    if empty:
        logger.warning(
            "'%s': %d boxes have nothing inside their pictures and are left out: %s", path, len(empty), first_of(empty)
        )
    if kept and max(max(annotation["bbox"]) for annotation in kept) <= 1:
        raise ValueError(
            f"'{path}': no box goes beyond one pixel: give x, y, width and height in pixels, not as shares"
        )
    if all(annotation["iscrowd"] for annotation in kept):
        raise ValueError(f"'{path}' has no box inside a picture that is not a crowd: annotate some")
    return kept


def _problem(annotation: Record, pictures: Mapping[Any, Record], categories: Mapping[int, str]) -> str:
    """What is wrong with the record of a box; "" for nothing."""
    image_id, category, box = (annotation.get(key) for key in ("image_id", "category_id", "bbox"))
    if not isinstance(image_id, int | str) or image_id not in pictures:
        return "belongs to no image in the list of images"
    if not isinstance(category, int | str) or category not in categories:
        return f"has the category_id {category!r}, which is not in the list of categories"
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return f"has the box {box!r}, not four finite numbers: x, y, width, height"
    if annotation.get("iscrowd") not in (0, 1, None):
        return f"has iscrowd {annotation['iscrowd']!r}, neither 0 nor 1"
    return ""


def _is_inside(box: Sequence[float], width: int, height: int) -> bool:
    """Whether some part of a box (x, y, width, height) lies in a picture."""
    left, top, box_width, box_height = box
    has_extent = min(box_width, box_height) > 0
    return has_extent and left < width and top < height and left + box_width > 0 and top + box_height > 0


def as_validation(content: Content, train: Content, path: Path) -> Content:
    """Validation data that name the classes of training, in its order and with its ids, whatever their own are.

    Raises: ValueError for boxes of a class that training does not name.
    """
    wanted = {folded_name(category["name"]): category["id"] for category in train["categories"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    boxes = Counter(annotation["category_id"] for annotation in content["annotations"])
    unknown = [name for category, name in names.items() if boxes[category] and folded_name(name) not in wanted]
    if unknown:
        raise ValueError(
            f"'{path}' has boxes of {len(unknown)} classes that the training data do not name: {listed(unknown)}. "
            f"Training names {listed([category['name'] for category in train['categories']])}: give both the same"
        )
    annotations = [
        {**annotation, "category_id": wanted[folded_name(names[annotation["category_id"]])]}
        for annotation in content["annotations"]
    ]
    return {**content, "annotations": annotations, "categories": train["categories"]}


def without_crowds(content: Content) -> Content:
    """Training reads no box of a crowd, and leaves out batches with a picture that shows nothing else."""
    return {**content, "annotations": [one for one in content["annotations"] if not one["iscrowd"]]}


def classes_without_boxes(content: Content) -> list[str]:
    """Names of the classes that no box shows but those of crowds."""
    shown = {annotation["category_id"] for annotation in content["annotations"] if not annotation["iscrowd"]}
    return [category["name"] for category in content["categories"] if category["id"] not in shown]


def _check_range(record_id: int | str, place: str, path: Path) -> None:
    """Raises: ValueError for a number that does not fit into 64 bits, as tensors and arrays of ids need."""
    if isinstance(record_id, int) and not -_MOST_ID <= record_id < _MOST_ID:
        raise ValueError(f"'{path}': {place} has the id {record_id}, which takes more than 64 bits: number them anew")


def _is_number(value: Any) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floating-point numbers
        return False


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
