"""Pictures with one or two coloured boxes of two classes, a task for fine-tuning, in COCO format."""

import json
import random
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw

SIZE = (96, 64)
CLASSES = {1: ("cup", "red"), 2: ("dog", "blue")}


def write_split(folder: Path, split: str, pictures: int, seed: int = 0) -> Path:
    """`pictures` pictures in folder/SPLIT; returns folder/SPLIT.json. Every third shows both classes."""
    draw = random.Random(f"{split}{seed}")
    (folder / split).mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(1, pictures + 1):
        picture = Image.new("RGB", SIZE, "white")
        shown = (1, 2) if number % 3 == 0 else (1 + number % 2,)
        for category in shown:
            x, y = draw.randrange(4, 30) + 44 * (category - 1), draw.randrange(4, 24)
            side = draw.randrange(12, 24)
            ImageDraw.Draw(picture).rectangle((x, y, x + side - 1, y + side - 1), fill=CLASSES[category][1])
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": category, "iscrowd": 0,
                 "bbox": [x, y, side, side], "area": side * side}
            )  # fmt: skip
        picture.save(folder / split / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": SIZE[0], "height": SIZE[1]})
    categories = [{"id": category, "name": name} for category, (name, _) in CLASSES.items()]
    path = folder / f"{split}.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def change(data: Path, **changes: Callable[[list], object]) -> Path:
    """Changes lists of a JSON file by functions of their names."""
    content = json.loads(data.read_text())
    for key, spoil in changes.items():
        spoil(content[key])
    data.write_text(json.dumps(content))
    return data


def write_task(folder: Path, name: str, **pictures: int) -> Path:
    """NAME.yaml with a set for each split, such as train=9, val=4, test=4; trains on "train", validates on "val"."""
    entries = []
    for split, number in pictures.items():
        path = write_split(folder / name, split, number)
        entries.append(f"    {split}: {{type: {_type(split)}, img_dir: {folder / name / split}, ann_file: {path}}}")
    task = folder / f"{name}.yaml"
    task.write_text(
        "DATASETS:\n  TRAIN: [train]\n  TEST: [val]\n  REGISTER:\n" + "\n".join(entries) + "\n", encoding="utf-8"
    )
    return task


def _type(split: str) -> str:
    return "grounding" if split.startswith("train") else "coco"
