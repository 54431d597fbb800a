"""Pictures, labels and sizes that lie in several tab-separated files, as one YAML file describes them."""

import base64
import binascii
import io
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from maskrcnn_benchmark.data.datasets.coco import is_box
from maskrcnn_benchmark.data.datasets.image_file import BrokenImage, decode_rgb, picture_size
from maskrcnn_benchmark.data.datasets.tsv_parts import Paths, open_rows

logger = logging.getLogger(__name__)

BACKGROUND = "__background__"
_IN_PARTS = ("img", "label", "hw")
_CHECKED_KEYS = 50  # rows whose keys are compared between the files


class Descriptor(NamedTuple):
    """Paths of the files of a dataset; None where it has no such file. The first three may be lists of parts.

    Attributes:
        img: rows `key, ..., base64 of a JPEG or PNG file`.
        label: rows `key, JSON`.
        hw: rows `key, size`.
        linelist: the rows that the dataset consists of, one number per line, in its order and as often as they stand.
        labelmap: class names and their labels.
        imageid2idx: JSON, `img_id` of a label -> row of the picture.
    """

    img: Paths
    label: Paths | None = None
    hw: Paths | None = None
    linelist: str | None = None
    labelmap: str | None = None
    imageid2idx: str | None = None


def read_descriptor(yaml_file: str | os.PathLike[str]) -> Descriptor:
    """Reads the YAML file of a dataset; files in it are given from the working directory or from the YAML's folder.

    Raises:
        FileNotFoundError: one of the files does not exist.
        ValueError: the file has no `img`, or a list where one file is expected.
    """
    path = Path(yaml_file)
    content = yaml.safe_load(path.read_text())
    if not isinstance(content, dict) or not content.get("img"):
        raise ValueError(f"{path} does not describe a TSV dataset: it has no key 'img'")
    if "jsondict" in content:
        content.setdefault("labelmap", content["jsondict"])
    found: dict[str, Any] = {}
    for field in Descriptor._fields:
        value = content.get(field)
        if isinstance(value, list) and value and field in _IN_PARTS:
            found[field] = tuple(_find_file(path, field, part) for part in value)
        elif isinstance(value, str) and value:
            found[field] = _find_file(path, field, value)
        elif value:
            raise ValueError(f"{field} of {path} must be the name of a file, not {value!r}")
    return Descriptor(**found)


def _find_file(descriptor: Path, field: str, name: str) -> str:
    candidates = [Path(name), descriptor.parent / name]
    existing = next((str(candidate) for candidate in candidates if candidate.is_file()), None)
    if existing is None:
        tried = " and ".join(map(str, candidates))
        raise FileNotFoundError(f"{field} file of {descriptor} does not exist: tried {tried}")
    return existing


def read_label_map(path: str | os.PathLike[str]) -> dict[str, int]:
    """{class name: label}: from JSON, flat or under `label_to_idx`, or from a TSV file whose row i has label i + 1.

    The background, label 0, comes last where the file has none: captions draw absent classes by their places.
    """
    path = Path(path)
    if path.suffix == ".json":
        try:
            content = json.loads(path.read_text())
            labels = {str(name): int(label) for name, label in content.get("label_to_idx", content).items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"label map {path} is no JSON object of numbers by class names: {error}") from error
    elif path.suffix == ".tsv":
        names = [line.split("\t")[0].strip() for line in path.read_text().splitlines() if line.strip()]
        labels = {name: label for label, name in enumerate(names, start=1)}
        if len(labels) != len(names):
            raise ValueError(f"label map {path} names {len(names)} classes, but only {len(labels)} different ones")
    else:
        raise ValueError(f"label map {path} must be a .json or a .tsv file")
    return labels | {BACKGROUND: 0}


def parse_size(cell: str | bytes) -> tuple[int, int]:
    """(height, width) from a size cell: a JSON object with both, a list with one, or two numbers, height first."""
    text = cell.decode() if isinstance(cell, bytes) else cell
    try:
        if text[:1] in ("[", "{"):
            content = json.loads(text)
            record = content[0] if isinstance(content, list) else content
            return int(record["height"]), int(record["width"])
        height, width = text.split()
        return int(height), int(width)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"size {text[:80]!r} is neither JSON with height and width nor two numbers") from error


class TSVRows:
    """Item i of a TSV dataset: its key, picture, label and size.

    Args:
        yaml_file: see read_descriptor.
        label_file: replaces the label file that the descriptor names.
    Raises: ValueError if the files do not belong together.
    """

    def __init__(self, yaml_file: str | os.PathLike[str], label_file: Paths | None = None):
        self.yaml_file = os.fspath(yaml_file)
        self.files = read_descriptor(yaml_file)
        self.images = open_rows(self.files.img)
        label_file = label_file or self.files.label
        self.labels = open_rows(label_file) if label_file else None
        self.sizes = open_rows(self.files.hw) if self.files.hw else None
        self._image_rows = self._match_images()
        self.rows = self._listed_rows()
        if self.sizes is not None and len(self.rows) and self.rows.max() >= len(self.sizes):
            raise ValueError(
                f"{self.sizes.path} has the sizes of {len(self.sizes)} rows, but {self.yaml_file} has a row "
                f"{self.rows.max()}"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, index: int) -> str:
        """First cell of the label row, or of the picture's where there are no labels."""
        file = self.images if self.labels is None else self.labels
        return file.key(int(self.rows[index]))

    def label(self, index: int) -> Any:
        """The JSON of the label row. Raises: ValueError, with file and row, if it is not JSON."""
        if self.labels is None:
            raise ValueError(f"{self.yaml_file} has no labels")
        row = int(self.rows[index])
        cells = self.labels.cells(row)
        if len(cells) < 2:
            raise ValueError(f"row {row} of {self.labels.path} has no label: {cells[0][:80]!r}")
        try:
            return json.loads(cells[1])
        except ValueError as error:
            raise ValueError(f"row {row} of {self.labels.path} is not JSON: {error}") from error

    def boxes(self, index: int, boxes: Sequence[Any]) -> Tensor:
        """The boxes that the label row of an item has, (N, 4). Raises: ValueError, with the row, if one is none."""
        if wrong := [box for box in boxes if not is_box(box)]:
            raise ValueError(f"picture {self.key(index)!r} of {self.yaml_file}: {wrong[0]!r} is no box of four numbers")
        return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)

    def image_bytes(self, index: int) -> bytes:
        """The picture file. Raises: BrokenImage, with file and row, if the cell is not base64."""
        row = self._image_row(index)
        try:
            return base64.b64decode(self.images.cells(row)[-1], validate=True)
        except binascii.Error as error:
            raise BrokenImage(f"row {row} of {self.images.path} is not base64: {error}") from error

    def image(self, index: int) -> Image.Image:
        """The picture as RGB."""
        return decode_rgb(io.BytesIO(self.image_bytes(index)), self._image_name(index))

    def size(self, index: int) -> tuple[int, int]:
        """(height, width): from the file of sizes, else from the label, else from the picture's own header."""
        if self.sizes is not None:
            return parse_size(self.sizes.cells(int(self.rows[index]))[-1])
        label = self.label(index) if self.labels is not None else None
        if isinstance(label, dict) and "img_h" in label and "img_w" in label:
            return int(label["img_h"]), int(label["img_w"])
        return picture_size(io.BytesIO(self.image_bytes(index)), self._image_name(index))

    def _image_name(self, index: int) -> str:
        return f"row {self._image_row(index)} of {self.images.path}"

    def _image_row(self, index: int) -> int:
        row = int(self.rows[index])
        return row if self._image_rows is None else int(self._image_rows[row])

    def _listed_rows(self) -> np.ndarray:
        """The rows (N,) int64 of the dataset's items."""
        available = len(self.labels if self.labels is not None else self.images)
        if not self.files.linelist:
            return np.arange(available)
        try:
            rows = np.loadtxt(self.files.linelist, dtype=np.int64, ndmin=1)
        except ValueError as error:
            raise ValueError(f"{self.files.linelist} does not have one row number per line: {error}") from error
        if rows.size and not 0 <= rows.min() <= rows.max() < available:
            wrong = rows[(rows < 0) | (rows >= available)][0]
            raise ValueError(f"{self.files.linelist} lists row {wrong}, but there are {available} rows")
        return rows

    def _match_images(self) -> np.ndarray | None:
        """For every label row the row of its picture; None where both have the same number."""
        if self.labels is None:
            return None
        if self.files.imageid2idx:
            row_of = json.loads(Path(self.files.imageid2idx).read_text())
            ids = [json.loads(self.labels.cells(row)[1])["img_id"] for row in range(len(self.labels))]
            return self._rows_of(ids, row_of)
        rows = np.linspace(0, len(self.labels) - 1, min(_CHECKED_KEYS, len(self.labels)), dtype=np.int64).tolist()
        is_aligned = len(self.images) == len(self.labels)
        if is_aligned and all(self.images.key(row) == self.labels.key(row) for row in rows):
            return None
        row_of = {self.images.key(row): row for row in range(len(self.images))}
        keys = [self.labels.key(row) for row in range(len(self.labels))]
        if is_aligned and not any(key in row_of for key in keys):
            logger.warning(
                "%s and %s have no key in common (%r, %r); row i of one is taken to belong to row i of the other",
                self.images.path, self.labels.path, self.images.key(0), keys[0],
            )  # fmt: skip
            return None
        return self._rows_of(keys, row_of)

    def _rows_of(self, keys: Sequence[Any], row_of: dict[str, int]) -> np.ndarray:
        missing = [key for key in keys if str(key) not in row_of]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(keys)} labels of {self.yaml_file} have no picture, the first {missing[0]!r}"
            )
        return np.array([row_of[str(key)] for key in keys], dtype=np.int64)
