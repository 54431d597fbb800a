"""Detections of an evaluation on disk, picture by picture, so that memory stays flat and a stop loses nothing."""

import hashlib
import json
import logging
import os
import shutil
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch

from maskrcnn_benchmark.evaluation.base import scores_and_labels
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.complete_files import write_complete

DESCRIPTION = "evaluation.json"
PATTERN = "*.boxes"
HEADER = struct.Struct("<qiiII")  # dataset index, width, height, number of boxes, checksum of what follows
BYTES_PER_BOX = 4 * 4 + 4 + 4  # xyxy and score as float32, label as int32
PIECE_BYTES = 32 << 20  # sent at a time between machines

logger = logging.getLogger(__name__)


class _Place(NamedTuple):
    path: Path
    offset: int
    size: int


class PredictionStore:
    """Detections by dataset index. Every process appends to a file of its own; a record cut short by a stop is dropped.

    Args:
        folder: where the files are; it exists. What earlier processes left there is part of the store.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        self._places: dict[int, _Place] = {}
        self._scanned: dict[Path, int] = {}  # bytes of complete records
        self._file: BinaryIO | None = None
        self._readers: dict[Path, BinaryIO] = {}
        self.scan()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, index: int) -> bool:
        return index in self._places

    def indices(self) -> list[int]:
        """Dataset indices in ascending order."""
        return sorted(self._places)

    def add(self, index: int, boxes: BoxList) -> None:
        """Appends the boxes (xyxy, with `scores` and `labels`) of a picture; those of one that is there are ignored."""
        if index in self._places:
            return
        boxes = boxes.convert("xyxy")
        corners = boxes.bbox.detach().to("cpu", torch.float32).numpy()
        found = scores_and_labels(boxes)
        scores = found[0].detach().to("cpu", torch.float32).numpy()
        labels = found[1].detach().to("cpu", torch.int32).numpy()
        content = corners.tobytes() + scores.tobytes() + labels.tobytes()
        width, height = boxes.size
        header = HEADER.pack(index, int(width), int(height), len(boxes), zlib.crc32(content))
        self._append(index, header + content)

    def flush(self) -> None:
        """Hands everything to the system, where it survives the end of this process."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Closes the files; reading opens them again."""
        for file in (*self._readers.values(), *([] if self._file is None else [self._file])):
            file.close()
        self._readers, self._file = {}, None

    def __getitem__(self, index: int) -> BoxList:
        """The boxes of a picture, with `scores` and `labels` (int64). Raises: KeyError if it is not there."""
        return _decode(self._read(self._places[index]))

    def __iter__(self) -> Iterator[tuple[int, BoxList]]:
        """(dataset index, boxes) in ascending order, read from disk one at a time."""
        for index in self.indices():
            yield index, self[index]

    def scan(self) -> None:
        """Takes in what processes have written to the folder since the last time."""
        self.flush()
        for path in sorted(self.folder.glob(PATTERN)):
            begin = self._scanned.get(path, 0)
            with path.open("rb") as file:
                file.seek(begin)
                for index, size in _records(file):
                    self._places.setdefault(index, _Place(path, begin, size))
                    begin += size
            self._scanned[path] = begin

    def gather(self) -> bool:
        """Lets the first process have all records; returns whether this is it. All processes call it.

        Processes that write to the same disk send nothing.
        """
        self.flush()
        comm.synchronize()
        is_main = comm.is_main_process()
        if is_main:
            self.scan()
        for source in range(1, comm.get_world_size()):
            known = comm.broadcast_object(set(self._places) if is_main else None)
            pieces = list(self._pieces(known)) if comm.get_rank() == source else []
            for number in range(comm.broadcast_object(len(pieces), source)):
                piece = comm.broadcast_object(pieces[number] if pieces else None, source)
                for index, record in piece if is_main else ():
                    self._append(index, record)
        self.flush()
        return is_main

    def _pieces(self, known: set[int]) -> Iterator[list[tuple[int, bytes]]]:
        """The records that the first process lacks, in portions."""
        piece: list[tuple[int, bytes]] = []
        size = 0
        for index in self.indices():
            if index in known:
                continue
            piece.append((index, self._read(self._places[index])))
            size += len(piece[-1][1])
            if size >= PIECE_BYTES:
                yield piece
                piece, size = [], 0
        if piece:
            yield piece

    def _append(self, index: int, record: bytes) -> None:
        if self._file is None:
            self._file = _new_file(self.folder)
        path = Path(self._file.name)
        offset = self._scanned.get(path, 0)
        self._file.write(record)
        self._places[index] = _Place(path, offset, len(record))
        self._scanned[path] = offset + len(record)

    def _read(self, place: _Place) -> bytes:
        self.flush()
        if place.path not in self._readers:
            self._readers[place.path] = place.path.open("rb")
        file = self._readers[place.path]
        file.seek(place.offset)
        return file.read(place.size)


def _new_file(folder: Path) -> BinaryIO:
    """A file of this process, not yet there. Raises: OSError if the folder cannot be written to."""
    number = 0
    while True:
        try:
            return (folder / f"{comm.get_rank():04d}-{number:04d}.boxes").open("xb")
        except FileExistsError:
            number += 1


def _records(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """(dataset index, bytes) of the complete records from the current place on."""
    while len(header := file.read(HEADER.size)) == HEADER.size:
        index, width, _, count, checksum = HEADER.unpack(header)
        content = file.read(count * BYTES_PER_BOX)
        if len(content) < count * BYTES_PER_BOX or zlib.crc32(content) != checksum:
            return
        if width == 0:  # zeros, with which a file may end after a loss of power
            return
        yield index, HEADER.size + len(content)


def _decode(record: bytes) -> BoxList:
    _, width, height, count, _ = HEADER.unpack_from(record)
    numbers = np.frombuffer(record, np.float32, 5 * count, HEADER.size)
    labels = np.frombuffer(record, np.int32, count, HEADER.size + 4 * numbers.size)
    boxes = BoxList(torch.from_numpy(numbers[: 4 * count].reshape(count, 4).copy()), (width, height), mode="xyxy")
    boxes.add_field("scores", torch.from_numpy(numbers[4 * count :].copy()))
    boxes.add_field("labels", torch.from_numpy(labels.astype(np.int64)))
    return boxes


def open_store(
    folder: str | os.PathLike[str], description: Mapping[str, Any], resume: bool, *, replaces_other: bool = False
) -> PredictionStore:
    """The store of an evaluation; all processes call it.

    Args:
        folder: made if it is missing.
        description: what the detections depend on, in JSON's types.
        resume: keep the detections in the folder; otherwise they are removed.
        replaces_other: with `resume`, remove detections that depend on something else.
    Raises: ValueError if the detections there depend on something else, unless these are to be removed.
    """
    folder = Path(folder)
    problem = ""
    if comm.is_main_process():
        try:
            _prepare(folder, description, resume, replaces_other)
        except (ValueError, OSError) as error:
            problem = str(error) or repr(error)
    problem = comm.broadcast_object(problem)
    if problem:
        raise ValueError(problem)
    folder.mkdir(parents=True, exist_ok=True)  # on another machine
    return PredictionStore(folder)


def _prepare(folder: Path, description: Mapping[str, Any], resume: bool, replaces_other: bool) -> None:
    note = folder / DESCRIPTION
    wanted = {name: fingerprint(value) for name, value in description.items()}
    if resume and note.is_file():
        problem = _difference(note, wanted)
        if not problem:
            return
        if not replaces_other:
            raise ValueError(f"{problem}; leave --resume away to start it afresh")
        logger.info("%s: it starts afresh", problem)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    write_complete(note, json.dumps(wanted, indent=2) + "\n")


def _difference(note: Path, wanted: Mapping[str, str]) -> str:
    """Why the evaluation with this note is not the wanted one, "" if it is."""
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        return f"{note} is not valid JSON: {error}"
    different = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if not different:
        return ""
    return f"the evaluation in {note.parent} cannot be resumed, as it differs in {', '.join(different)}"


def fingerprint(value: Any) -> str:
    """A short text that differs where the JSON of the values does."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
