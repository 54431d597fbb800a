"""Small TSV datasets that the tests read."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from maskrcnn_benchmark.data.datasets.tsv_file import TSVWriter

IMAGE_SIZE = (100, 80)


def png(shade: int, size: tuple[int, int] = IMAGE_SIZE) -> bytes:
    """A picture file of one colour, whose red is `shade`."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, 100, 50)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tsv(path: Path, rows: Sequence[Sequence[str | bytes]]) -> Path:
    """A TSV file with its index."""
    with TSVWriter(path) as writer:
        for row in rows:
            writer.write(*row)
    return path


def write_tsv_dataset(
    folder: Path, labels: Mapping[str, Any], *, image_keys: Sequence[str] | None = None, **files: Any
) -> Path:
    """YAML file of a dataset with a label and a picture for every key; picture number i has red 10 * i."""
    keys = list(labels)
    write_tsv(
        folder / "images.tsv",
        [(key, base64.b64encode(png(10 * keys.index(key) if key in keys else 0))) for key in image_keys or keys],
    )
    write_tsv(folder / "raw_label.tsv", [(key, json.dumps(label)) for key, label in labels.items()])
    content: dict[str, Any] = {"img": "images.tsv", "label": "raw_label.tsv"} | files
    path = folder / "data.yaml"
    path.write_text(json.dumps(content))
    return path


def detection_labels() -> dict[str, Any]:
    """Three pictures: a cat and a dog, a dog beyond the border, nothing."""
    return {
        "7": {"objects": [_object("cat", [10, 10, 39, 39]), _object("hot_dog", [20, 20, 59, 59])]},
        "8": [_object("hot_dog", [60, 50, 180, 90]), _object("cat", [120, 10, 130, 20])],
        "9": [],
    }


def write_detection_tsv(folder: Path, **options: Any) -> Path:
    """YAML file of the pictures of detection_labels, with a label map."""
    (folder / "labels.json").write_text(json.dumps({"cat": 1, "hot_dog": 2, "bird": 3}))
    return write_tsv_dataset(folder, detection_labels(), labelmap="labels.json", **options)


def _object(name: str, rect: list[float]) -> dict[str, Any]:
    return {"class": name, "rect": rect}
