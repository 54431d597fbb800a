"""What ``glip predict`` leaves behind: annotated pictures, one COCO-style file, and a table on the screen."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from prettytable import PrettyTable

from maskrcnn_benchmark.utils.complete_files import atomic_path
from maskrcnn_benchmark.visualization.draw import draw_boxes

if TYPE_CHECKING:
    from maskrcnn_benchmark.engine.detector_api import Prediction

TABLE_ROWS = 60
TEXT_WIDTH = 60


def output_names(inputs: Sequence[Path], folder: Path) -> list[Path]:
    """A PNG in ``folder`` for every input: its stem, numbered where two share it; never one of the inputs."""
    taken = {os.path.normcase(path.absolute()) for path in inputs}
    names = []
    for path in inputs:
        name, number = folder / f"{path.stem}.png", 1
        while os.path.normcase(name.absolute()) in taken:
            number += 1
            name = folder / f"{path.stem}_{number}.png"
        taken.add(os.path.normcase(name.absolute()))
        names.append(name)
    return names


def write_picture(path: Path, image: np.ndarray, prediction: "Prediction") -> None:
    """Saves ``image`` (H, W, 3) RGB with the boxes of ``prediction`` as PNG; a phrase has its colour everywhere."""
    picture = draw_boxes(
        image,
        prediction.boxes.numpy(),
        prediction.phrases,
        scores=prediction.scores.tolist(),
        color_ids=[label - 1 for label in prediction.labels.tolist()],
    )
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


@dataclass
class Results:
    """Collects the predictions of a run as COCO records.

    Attributes:
        phrases: category id -> name, for the categories of the file.
        info: what made the file (model, prompt, threshold).
    """

    phrases: Mapping[int, str]
    info: Mapping[str, Any]
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, file_name: str, size: tuple[int, int], prediction: "Prediction") -> None:
        """One picture of ``size`` (width, height) and what was found on it."""
        image_id = len(self.images) + 1
        self.images.append({"id": image_id, "file_name": file_name, "width": size[0], "height": size[1]})
        for box, score, label, phrase in zip(
            prediction.boxes.tolist(),
            prediction.scores.tolist(),
            prediction.labels.tolist(),
            prediction.phrases,
            strict=True,
        ):
            x1, y1, x2, y2 = box
            width, height = x2 - x1 + 1, y2 - y1 + 1  # the inclusive convention of BoxList
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": image_id,
                    "category_id": label,
                    "bbox": [round(value, 2) for value in (x1, y1, width, height)],
                    "area": round(width * height, 2),
                    "iscrowd": 0,
                    "score": round(score, 5),
                    "phrase": phrase,
                }
            )

    def write_json(self, path: Path) -> None:
        """COCO detection format; ``annotations`` with their scores also serve as a COCO result list."""
        content = {
            "info": dict(self.info),
            "images": self.images,
            "categories": [{"id": label, "name": name} for label, name in sorted(self.phrases.items())],
            "annotations": self.annotations,
        }
        with atomic_path(path) as temporary:
            text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
            # a file name that is no UTF-8 holds lone surrogates; escaped, they are JSON and read back as they were
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")

    def table(self) -> str:
        """The boxes of the run, at most TABLE_ROWS of them."""
        names = {image["id"]: image["file_name"] for image in self.images}
        table = PrettyTable(["picture", "phrase", "score", "box (x1 y1 x2 y2)"], align="l")
        for record in self.annotations[:TABLE_ROWS]:
            x, y, width, height = record["bbox"]
            box = f"{x:.0f} {y:.0f} {x + width - 1:.0f} {y + height - 1:.0f}"
            table.add_row(
                [
                    _short(names[record["image_id"]], -TEXT_WIDTH),
                    _short(record["phrase"], TEXT_WIDTH),
                    f"{record['score']:.2f}",
                    box,
                ]
            )
        more = len(self.annotations) - TABLE_ROWS
        return table.get_string() + (f"\nand {more} more" if more > 0 else "")

    def counts(self) -> str:
        """How often each phrase was found: "3 cup, 1 dog", the frequent first."""
        found: dict[str, int] = {}
        for record in self.annotations:
            found[record["phrase"]] = found.get(record["phrase"], 0) + 1
        return _joined(
            f"{n} {_short(name, TEXT_WIDTH)}" for name, n in sorted(found.items(), key=lambda item: -item[1])
        )


def _joined(parts: Iterable[str], most: int = 8) -> str:
    words = list(parts)
    return ", ".join(words[:most]) + (f" and {len(words) - most} more kinds" if len(words) > most else "")


def _short(text: str, width: int) -> str:
    """``text`` cut at its end, or for a negative width at its beginning."""
    if len(text) <= abs(width):
        return text
    return text[: width - 3] + "..." if width > 0 else "..." + text[width + 3 :]
