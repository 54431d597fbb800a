"""Detection data from COCO's form, a JSON file and a folder of pictures, to TSV files and back."""

import base64
import io
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from PIL import Image

from maskrcnn_benchmark.data.datasets.coco import is_box
from maskrcnn_benchmark.data.datasets.coco_json import CategoryNumbering, image_file, is_crowd, load_coco_json
from maskrcnn_benchmark.data.datasets.image_file import picture_size
from maskrcnn_benchmark.data.datasets.tsv_file import TSVWriter
from maskrcnn_benchmark.data.datasets.tsv_rows import BACKGROUND, TSVRows, read_label_map

logger = logging.getLogger(__name__)

DESCRIPTOR, ANNOTATIONS, PICTURES = "data.yaml", "instances.json", "images"
_FILES = {"img": "images.tsv", "label": "label.tsv", "hw": "hw.tsv", "labelmap": "labelmap.json"}
_KEPT_KEYS = frozenset(("id", "image_id", "category_id", "bbox", "area", "iscrowd"))

Progress = Callable[[Sequence[int]], Iterable[int]]
Json = dict[str, Any]


def coco_to_tsv(
    ann_file: str | os.PathLike[str],
    image_folder: str | os.PathLike[str],
    out_folder: str | os.PathLike[str],
    progress: Progress = iter,
) -> Path:
    """Writes a COCO-style dataset as TSV files with their indices; returns the YAML file that names them.

    Picture files are stored byte for byte, in the order of the image ids, which become the keys. Annotations of groups
    are kept under `crowds`, which no dataset reads; segmentations and keypoints are left out with a warning.

    Raises:
        FileExistsError: the folder has such a dataset already.
        FileNotFoundError: a picture is missing.
        ValueError: two categories have the same name, or an annotation has an unknown one or no box.
    """
    out = _new_folder(out_folder, DESCRIPTOR)
    coco = load_coco_json(ann_file)
    categories = coco.dataset.get("categories", [])
    numbering = CategoryNumbering(categories)
    repeated = [name for name, count in Counter(numbering.names.values()).items() if count > 1]
    if repeated:
        raise ValueError(
            f"{os.fspath(ann_file)}: {repeated[0]!r} names several categories, which TSV labels cannot tell"
        )
    left_out: Counter[str] = Counter()
    with (
        TSVWriter(out / _FILES["img"]) as images,
        TSVWriter(out / _FILES["label"]) as labels,
        TSVWriter(out / _FILES["hw"]) as sizes,
    ):
        for image_id in progress(sorted(coco.imgs)):
            record, annotations = coco.imgs[image_id], coco.imgToAnns[image_id]
            for annotation in annotations:
                left_out.update(annotation.keys() - _KEPT_KEYS)
            path = Path(image_folder, image_file(record))
            picture = path.read_bytes()
            height, width = _size(record, picture, os.fspath(path))
            label: Json = {"image": record, "objects": [], "crowds": []}
            for annotation in annotations:
                name = numbering.names[numbering.label(annotation)]
                label["crowds" if is_crowd(annotation) else "objects"].append(_object(annotation, name))
            key = str(image_id)
            images.write(key, base64.b64encode(picture))
            labels.write(key, json.dumps(label))
            sizes.write(key, json.dumps([{"height": height, "width": width}]))
    label_of = {name: label for label, name in numbering.names.items()}
    (out / _FILES["labelmap"]).write_text(json.dumps({"label_to_idx": label_of, "categories": categories}))
    for key, count in left_out.most_common():
        logger.warning("%r of %d annotations is not part of TSV labels and left out", key, count)
    (out / DESCRIPTOR).write_text(yaml.safe_dump(_FILES, sort_keys=False))
    return out / DESCRIPTOR


def tsv_to_coco(
    yaml_file: str | os.PathLike[str], out_folder: str | os.PathLike[str], progress: Progress = iter
) -> Path:
    """Writes a TSV dataset as a folder of pictures and a COCO-style file; returns the latter.

    What coco_to_tsv wrote comes back with its ids, file names and boxes. Other datasets get the numbers in their keys,
    or those of the rows from 1 on, as image ids. A row that the dataset lists several times is written once.

    Raises:
        FileExistsError: the folder has such a dataset already.
        ValueError: a file name leads out of the folder, or an object has a class that the label map lacks.
    """
    out = _new_folder(out_folder, ANNOTATIONS)
    rows = TSVRows(yaml_file)
    categories = _categories(rows)
    category_of = {category["name"]: category["id"] for category in categories}
    first_index: dict[int, int] = {}
    for index, row in enumerate(rows.rows.tolist()):
        first_index.setdefault(row, index)
    indices = list(first_index.values())
    keys = [rows.key(index) for index in indices]
    has_numbers = all(key.isascii() and key.isdecimal() for key in keys) and len(set(map(int, keys))) == len(keys)
    records: list[Json] = []
    annotations: list[Json] = []
    for place in progress(range(len(indices))):
        key, label, picture = keys[place], rows.label(indices[place]), rows.image_bytes(indices[place])
        label = label if isinstance(label, dict) else {"objects": label}
        if "image" in label:
            record = label["image"]
        else:
            height, width = rows.size(indices[place])
            number = int(key) if has_numbers else place + 1
            record = {"id": number, "file_name": f"{key}.{_suffix(picture)}", "height": height, "width": width}
        _write_picture(out / PICTURES, image_file(record), picture)
        records.append(record)
        for is_group, group in enumerate((label["objects"], label.get("crowds", []))):
            for item in group:
                if item["class"] not in category_of:
                    raise ValueError(
                        f"picture {key!r} of {rows.yaml_file}: no class {item['class']!r} in the label map"
                    )
                annotations.append(_annotation(item, record["id"], category_of[item["class"]], is_group))
    _number(annotations)
    content = {"images": records, "annotations": annotations, "categories": categories}
    (out / ANNOTATIONS).write_text(json.dumps(content))
    return out / ANNOTATIONS


def _new_folder(folder: str | os.PathLike[str], name: str) -> Path:
    out = Path(folder)
    if (out / name).exists():
        raise FileExistsError(f"{out / name} is there already; choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    return out


def _size(record: Mapping[str, Any], picture: bytes, name: str) -> tuple[int, int]:
    """(height, width) of a picture. Raises: BrokenImage, with its name."""
    if "height" in record and "width" in record:
        return record["height"], record["width"]
    return picture_size(io.BytesIO(picture), name)


def _object(annotation: Mapping[str, Any], name: str) -> Json:
    """An object of a label row; `xywh` holds a box that its inclusive corners do not give back exactly.

    Raises: ValueError, with the annotation, for a box that is not made of four numbers.
    """
    if not is_box(annotation.get("bbox")):
        raise ValueError(
            f"annotation {annotation.get('id')} of image {annotation['image_id']!r}: {annotation.get('bbox')!r} is no "
            "box of four numbers"
        )
    x, y, width, height = annotation["bbox"]
    rect = [x, y, x + max(width - 1, 0), y + max(height - 1, 0)]
    item = {"class": name, "rect": rect} | {key: annotation[key] for key in ("id", "area") if key in annotation}
    return item if _xywh(rect) == list(annotation["bbox"]) else item | {"xywh": annotation["bbox"]}


def _xywh(rect: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = rect
    return [x1, y1, x2 - x1 + 1, y2 - y1 + 1]


def _annotation(item: Mapping[str, Any], image_id: int | str, category_id: int, iscrowd: int) -> Json:
    box = item.get("xywh") or _xywh(item["rect"])
    area = item.get("area", box[2] * box[3])
    return {
        "id": item.get("id"),
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box,
        "area": area,
        "iscrowd": iscrowd,
    }


def _number(annotations: Sequence[Json]) -> None:
    """Numbers the annotations from 1 on, unless they have different numbers already."""
    ids = [annotation["id"] for annotation in annotations]
    if all(isinstance(number, int) for number in ids) and len(set(ids)) == len(ids):
        return
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number


def _categories(rows: TSVRows) -> list[Json]:
    if rows.files.labelmap is None:
        raise ValueError(f"{rows.yaml_file} names no labelmap (or jsondict) for its class names")
    if rows.files.labelmap.endswith(".json"):
        content = json.loads(Path(rows.files.labelmap).read_text())
        if isinstance(content.get("categories"), list):
            return content["categories"]
    labels = read_label_map(rows.files.labelmap)
    return [{"id": label, "name": name} for name, label in labels.items() if name != BACKGROUND]


def _suffix(picture: bytes) -> str:
    with Image.open(io.BytesIO(picture)) as image:
        kind = (image.format or "img").lower()
    return "jpg" if kind == "jpeg" else kind


def _write_picture(folder: Path, name: str, picture: bytes) -> None:
    """Writes a file below the folder. Raises: ValueError for a name that leads elsewhere."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise ValueError(f"file name {name!r} of a picture leads out of {folder}")
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(picture)
