"""Small files of the built-in sets of captions with boxes, that the tests read."""

import json
from pathlib import Path

from data_files import IMAGE_SIZE
from PIL import Image

from maskrcnn_benchmark.config.paths_catalog import DATASETS

WIDTH, HEIGHT = IMAGE_SIZE
CAPTION = "a red cup left of a small blue star"


def record(number: int, **fields) -> dict:
    size = {"width": WIDTH, "height": HEIGHT, "caption": CAPTION}
    return {"id": number, "file_name": "a.png", **size, "tokens_positive_eval": [[[2, 9]], [[20, 35]]], **fields}


def box(number: int, image: int, bbox: list[float], spans: list[list[int]], **fields) -> dict:
    area = {"area": bbox[2] * bbox[3], "iscrowd": 0, "category_id": 1}
    return {"id": number, "image_id": image, "bbox": bbox, "tokens_positive": spans, **area, **fields}


def write_built_in(root: Path, name: str) -> None:
    """Two sentences at the places that the catalogue names, and one without a box; the pictures differ by folder."""
    entry = DATASETS[name]
    folders = [entry[field] for field in ("img_dir", "coco_img_dir", "vg_img_dir") if field in entry]
    for brightness, folder in zip((50, 200), folders, strict=False):
        (root / folder).mkdir(parents=True)
        Image.new("RGB", IMAGE_SIZE, (brightness,) * 3).save(root / folder / "a.png")
    images = [
        record(1, data_source="coco", dataset_name=name, sentence_id=3, original_img_id=70, original_id=8, task_id=0),
        record(2, data_source="vg", dataset_name=name),
        record(3),
    ]
    annotations = [
        box(1, 1, [5, 5, 40, 40], [[2, 9]]),
        box(2, 1, [50, 20, 30, 40], [[20, 35]]),
        box(3, 2, [10, 10, 60, 60], [[10, 14], [20, 35]]),
    ]
    path = root / entry["ann_file"]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "o"}]}))
