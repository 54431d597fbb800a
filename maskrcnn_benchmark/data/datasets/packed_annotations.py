"""Records of millions of boxes in one block of memory that loader processes share.

A dictionary per box takes some 700 bytes, and a forked process that looks at one writes its reference count, which
copies the page. Packed, a box takes some 100 to 150 bytes, and only the block is looked at.
"""

import marshal
from array import array
from collections.abc import Iterator, Mapping
from typing import Any

from pycocotools.coco import COCO


class PackedRecords(Mapping[Any, Any]):
    """Key -> what a JSON file holds for it, decoded anew at every access.

    Args:
        records: the same, of dicts, lists, strings, numbers, booleans and None.
    """

    def __init__(self, records: Mapping[Any, Any]):
        self._rows: dict[Any, int] = {}
        self._ends = array("q", [0])  # row r lies in [ends[r], ends[r + 1])
        block = bytearray()
        for row, (key, record) in enumerate(records.items()):
            block += marshal.dumps(record)
            self._rows[key] = row
            self._ends.append(len(block))
        self._block = bytes(block)

    def __getitem__(self, key: Any) -> Any:
        row = self._rows[key]
        return marshal.loads(memoryview(self._block)[self._ends[row] : self._ends[row + 1]])

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
        return super().__getitem__(key) if key in self else []


def pack_annotations(coco: COCO) -> None:
    """Packs `imgs` and `imgToAnns` of a file read for training, and drops what else refers to single annotations.

    An evaluation needs `anns` and must not pack.
    """
    # The keys are those of the images: one number kept of every image's annotations would hold all their memory.
    coco.imgToAnns = PackedAnnotations({key: coco.imgToAnns[key] for key in coco.imgs if key in coco.imgToAnns})
    coco.anns, coco.catToImgs = {}, {}
    coco.imgs = PackedRecords(coco.imgs)
    coco.dataset["annotations"], coco.dataset["images"] = [], []
