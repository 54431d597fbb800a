"""Records of millions of boxes in one block of memory that loader processes share.

A dictionary per box takes some 700 bytes, and a forked process that looks at one writes its reference count, which
copies the page. Packed, a box takes some 80 bytes, and only the block is looked at.
"""

import contextlib
import logging
import marshal
import os
import struct
from array import array
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
from pycocotools.coco import COCO
from tqdm import tqdm

from maskrcnn_benchmark.data.datasets.json_stream import InvalidJson, NotAnObject, read_members
from maskrcnn_benchmark.text.class_names import listed

logger = logging.getLogger(__name__)

UNUSED_KEYS = ("segmentation",)
"""Parts of an annotation that training does not read; they are several times as large as the rest."""

SHOWN_BYTES = 100_000_000  # of a file from which on reading it shows its progress
_MOVED = 1 << 16  # records brought together at a time
_FORMAT = 2  # of marshal: the last whose values may be put one after the other, as it does not refer back


class _Codec:
    """Dictionaries as bytes: their keys are kept once, for all that have the same."""

    def __init__(self) -> None:
        self._keys: list[tuple[str, ...]] = []
        self._numbers: dict[tuple[str, ...], int] = {}

    def encode(self, record: Mapping[str, Any]) -> bytes:
        keys = tuple(record)
        number = self._numbers.get(keys)
        if number is None:
            number = self._numbers[keys] = len(self._keys)
            self._keys.append(keys)
        return marshal.dumps((number, *record.values()), _FORMAT)

    def decode(self, values: tuple[Any, ...]) -> dict[str, Any]:
        return dict(zip(self._keys[values[0]], values[1:], strict=True))


class RecordPacker:
    """Takes records one by one, in any order of their keys."""

    def __init__(self) -> None:
        self.codec = _Codec()
        self.rows: dict[Any, int] = {}
        self._row_of_record = array("q")
        self._block = bytearray()
        self._ends = array("q", [0])

    def add(self, key: Any, record: Mapping[str, Any]) -> None:
        """Adds a dictionary of what JSON can hold to those of a key."""
        self._row_of_record.append(self.rows.setdefault(key, len(self.rows)))
        self._block += self.codec.encode(record)
        self._ends.append(len(self._block))

    def grouped(self) -> tuple[bytearray, np.ndarray, np.ndarray]:
        """The records of every key side by side: all bytes, where each key's begin and end (K + 1,), how many (K,)."""
        rows = np.frombuffer(self._row_of_record, dtype=np.int64)
        ends = np.frombuffer(self._ends, dtype=np.int64)
        order = np.argsort(rows, kind="stable")
        counts = np.bincount(rows, minlength=len(self.rows))
        sizes = np.diff(ends)[order]
        bounds = np.concatenate([[0], np.cumsum(sizes)])[np.concatenate([[0], np.cumsum(counts)])]
        if np.all(np.diff(order) == 1):
            return self._block, bounds, counts
        begins, view, grouped = ends[:-1][order], memoryview(self._block), bytearray(len(self._block))
        position = 0
        for first in range(0, len(order), _MOVED):  # a piece of memory per record would take more than the records
            part = slice(first, first + _MOVED)
            records = zip(begins[part].tolist(), sizes[part].tolist(), strict=True)
            moved = b"".join([view[begin : begin + size] for begin, size in records])
            grouped[position : position + len(moved)] = moved
            position += len(moved)
        return grouped, bounds, counts


class PackedRecords(Mapping[Any, Any]):
    """Key -> the record that was added last under it, decoded anew at every access."""

    def __init__(self, packer: RecordPacker):
        self._codec = packer.codec
        self._rows = packer.rows
        self._block, self._bounds, self._counts = packer.grouped()

    def records(self, key: Any) -> list[dict[str, Any]]:
        """All records of a key, in the order in which they were added."""
        row = self._rows[key]
        packed = memoryview(self._block)[self._bounds[row] : self._bounds[row + 1]]
        values = marshal.loads(b"[" + struct.pack("<i", self._counts[row]) + packed)  # as marshal writes a list
        return [self._codec.decode(record) for record in values]

    def counts(self) -> dict[Any, int]:
        """How many records each key has."""
        return dict(zip(self._rows, self._counts.tolist(), strict=True))

    def __getitem__(self, key: Any) -> Any:
        return self.records(key)[-1]

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Size of the block."""
        return len(self._block)


class PackedAnnotations(PackedRecords):
    """Image id -> list of its annotations, which is empty for an id that has none."""

    def __getitem__(self, key: Any) -> list[dict[str, Any]]:
        return self.records(key) if key in self else []


def load_packed_coco_json(ann_file: str | os.PathLike[str]) -> COCO:
    """What load_coco_json reads, for training: `imgs` and `imgToAnns` packed, without UNUSED_KEYS and what else refers
    to single annotations. The file is read piece by piece.

    An evaluation needs `anns` and must not use this. Images of one id, and annotations of images that are not listed,
    are logged.

    Raises: FileNotFoundError or ValueError, as load_coco_json does.
    """
    images, annotations = RecordPacker(), RecordPacker()

    def add_annotation(annotation: dict[str, Any]) -> None:
        for key in UNUSED_KEYS:
            annotation.pop(key, None)
        annotations.add(annotation["image_id"], annotation)

    name = os.fspath(ann_file)
    try:
        with _reading(name) as file:
            members = read_members(
                file, {"images": lambda record: images.add(record["id"], record), "annotations": add_annotation}
            )
        categories = {category["id"]: category for category in members.get("categories", [])}
    except InvalidJson as error:
        raise ValueError(f"annotation file {name} is not valid JSON: {error}") from error
    except NotAnObject as error:
        raise ValueError(f"annotation file {name} is not in COCO format: {error}") from error
    except KeyError as error:
        raise ValueError(f"annotation file {name} is not in COCO format: an entry has no {error}") from error
    if "images" not in members:
        raise ValueError(f"annotation file {name} is not in COCO format: it has no list of images")
    coco = COCO()
    coco.dataset = members
    coco.imgs, coco.imgToAnns = PackedRecords(images), PackedAnnotations(annotations)
    coco.cats = categories
    _warn_of_ids(name, coco.imgs, coco.imgToAnns)
    return coco


def _warn_of_ids(name: str, images: PackedRecords, annotations: PackedRecords) -> None:
    """Logs ids by which images or annotations get lost."""
    if repeated := [key for key, count in images.counts().items() if count > 1]:
        logger.warning(
            "annotation file %s: %d image ids come more than once, and only the last image of each is used: %s",
            name,
            len(repeated),
            listed(list(map(str, repeated))),
        )
    if unlisted := {key: count for key, count in annotations.counts().items() if key not in images}:
        logger.warning(
            "annotation file %s: %d annotations are of images that are not in its list: %s",
            name,
            sum(unlisted.values()),
            listed(list(map(str, unlisted))),
        )


@contextlib.contextmanager
def _reading(name: str) -> Iterator[BinaryIO]:
    """The open file, with a progress bar if it is large."""
    size = os.path.getsize(name)
    with (
        open(name, "rb") as file,
        tqdm.wrapattr(
            file, "read", total=size, desc=os.path.basename(name), leave=False, disable=size < SHOWN_BYTES or None
        ) as counted,
    ):
        yield counted
