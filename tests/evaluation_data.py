"""Small data in the layouts that published evaluation commands read: COCO, LVIS, Flickr30k; and detections."""

import json
from pathlib import Path

import numpy as np
import torch
from data_files import write_coco_toy
from PIL import Image

from maskrcnn_benchmark.structures.bounding_box import BoxList

LVIS_NAMES = ("aerosol_can", "armor", "bird", "bagel", "cat_(animal)", "dog")


def found(*rows, size=(100, 80)) -> BoxList:
    """Detections (x1, y1, x2, y2, label, score) on a picture of (width, height)."""
    boxes = BoxList([row[:4] for row in rows], size)
    boxes.add_field("labels", torch.tensor([row[4] for row in rows], dtype=torch.int64))
    boxes.add_field("scores", torch.tensor([row[5] for row in rows], dtype=torch.float32))
    return boxes


def write_coco(root: Path) -> None:
    """coco/val2017 and its annotations, with three pictures."""
    pictures = root / "coco/val2017"
    pictures.mkdir(parents=True)
    (root / "coco/annotations").mkdir(exist_ok=True)
    write_coco_toy(pictures).rename(root / "coco/annotations/instances_val2017.json")


def write_lvis(root: Path, pictures: int = 5, file: str = "lvis_v1_minival_inserted_image_name.json") -> Path:
    """coco/val2017 and LVIS annotations over it; returns the annotation file."""
    folder = root / "coco/val2017"
    folder.mkdir(parents=True, exist_ok=True)
    (root / "coco/annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    generator = np.random.default_rng(0)
    for number in range(1, pictures + 1):
        name = f"{number:012d}.jpg"
        Image.fromarray(generator.integers(0, 255, (80, 100, 3), dtype=np.uint8)).save(folder / name)
        negative, open_ended = [1 + number % 6], [1 + (number + 1) % 6]
        images.append(
            {"id": number, "width": 100, "height": 80, "file_name": f"val2017/{name}"}
            | {"neg_category_ids": negative, "not_exhaustive_category_ids": open_ended}
        )
        for category in (1 + (number + 2) % 6, 1 + (number + 3) % 6):
            box = [5 * category, 10, 30, 20 + number]
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": category, "bbox": box})
            annotations[-1]["area"] = box[2] * box[3]
    categories = [
        {"id": number, "name": name, "frequency": "rcf"[number % 3]} for number, name in enumerate(LVIS_NAMES, start=1)
    ]
    path = root / "coco/annotations" / file
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def write_flickr(root: Path, subset: str = "test", with_entities: bool = True) -> None:
    """flickr30k: three pictures with two sentences each, the annotations of MDETR, and Flickr30k Entities."""
    pictures = root / "flickr30k/flickr30k_images" / subset
    entities = root / "flickr30k/flickr30k"
    for folder in (pictures, root / "mdetr_annotations"):
        folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for picture in (11, 12, 13):
        Image.new("RGB", (100, 80), (picture * 15, 100, 50)).save(pictures / f"{picture}.jpg")
        sentences = (("the red cup left of the dog", [(0, 11), (20, 27)]), ("a small dog", [(0, 11)]))
        for number, (caption, phrases) in enumerate(sentences):
            images.append(
                {"id": len(images) + 1, "file_name": f"{picture}.jpg", "width": 100, "height": 80, "caption": caption}
                | {"original_img_id": picture, "sentence_id": number, "dataset_name": "flickr"}
                | {"tokens_positive_eval": [[list(span)] for span in phrases]}
            )
            for span, box in zip(phrases, ([10, 10, 20, 20], [50, 10, 40, 30]), strict=False):
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": len(images), "category_id": 1, "bbox": box}
                    | {"area": box[2] * box[3], "iscrowd": 0, "tokens_positive": [list(span)]}
                )
        if with_entities:
            _write_entities(entities, picture)
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}
    (root / f"mdetr_annotations/final_flickr_separateGT_{subset}.json").write_text(json.dumps(content))
    if with_entities:
        (entities / f"{subset}.txt").write_text("11\n12\n13\n")


def _write_entities(folder: Path, picture: int) -> None:
    for name in ("Sentences", "Annotations"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / f"Sentences/{picture}.txt").write_text(
        "[/EN#1/other the red cup] left of [/EN#2/animals the dog]\n[/EN#2/animals a small dog]\n"
    )
    boxes = {1: (10, 10, 30, 30), 2: (50, 10, 90, 40)}
    objects = "".join(
        f"<object><name>{entity}</name><bndbox>"
        + "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        + "</bndbox></object>"
        for entity, box in boxes.items()
    )
    (folder / f"Annotations/{picture}.xml").write_text(f"<annotation>{objects}</annotation>")
