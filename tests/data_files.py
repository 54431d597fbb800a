"""Small annotation files and pictures that the data tests read."""

import json
from pathlib import Path

from PIL import Image

IMAGE_SIZE = (100, 80)


def write_coco_toy(folder: Path) -> Path:
    """Three pictures (ids 5, 2, 9) and three categories with sparse ids; picture 9 shows only a crowd."""
    for image_id in (5, 2, 9):
        Image.new("RGB", IMAGE_SIZE, (image_id * 20, 100, 50)).save(folder / f"{image_id}.png")
    boxes = [(1, 2, 7, [10, 10, 30, 30], 0), (2, 5, 3, [20, 20, 40, 40], 0), (3, 9, 3, [5, 5, 60, 60], 1)]
    return _write(
        folder / "toy.json",
        {
            "images": [_image(image_id) for image_id in (5, 2, 9)],
            "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 11, "name": "absent, thing"}],
            "annotations": [_annotation(*row[:4], iscrowd=row[4]) for row in boxes],
        },
    )


def write_coco_split(root: Path, split: str) -> None:
    """COCO's layout below `root`, with the three pictures, no crowd, for "train2017" or "val2017"."""
    pictures = root / "coco" / split
    pictures.mkdir(parents=True)
    (root / "coco/annotations").mkdir(exist_ok=True)
    annotations = write_coco_toy(pictures).read_text().replace('"iscrowd": 1', '"iscrowd": 0')
    (root / f"coco/annotations/instances_{split}.json").write_text(annotations)


def write_grounding_toy(folder: Path) -> Path:
    """Two sentences over one picture, with phrases to evaluate."""
    Image.new("RGB", IMAGE_SIZE, (30, 100, 50)).save(folder / "scene.png")
    first, second = "the red cup left of the dog", "a small dog"
    return _write(
        folder / "grounding.json",
        {
            "images": [
                _image(1, "scene.png")
                | {"caption": first, "dataset_name": "toy", "tokens_positive_eval": [[[0, 11]], [[20, 27]]]},
                _image(2, "scene.png") | {"caption": second, "sentence_id": 4, "original_img_id": 77},
            ],
            "categories": [{"id": 1, "name": "object"}],
            "annotations": [
                _annotation(1, 1, 1, [10, 10, 20, 20]) | {"tokens_positive": [[0, 11]]},
                _annotation(2, 1, 1, [50, 10, 60, 30]) | {"tokens_positive": [[20, 27]]},
                _annotation(3, 2, 1, [50, 10, 30, 30]) | {"tokens_positive": [[2, 7], [8, 11]]},
            ],
        },
    )


def _image(image_id: int, file_name: str | None = None) -> dict:
    width, height = IMAGE_SIZE
    return {"id": image_id, "file_name": file_name or f"{image_id}.png", "width": width, "height": height}


def _annotation(annotation_id: int, image_id: int, category_id: int, bbox: list[float], iscrowd: int = 0) -> dict:
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        "area": bbox[2] * bbox[3],
        "iscrowd": iscrowd,
    }


def _write(path: Path, content: dict) -> Path:
    path.write_text(json.dumps(content))
    return path
