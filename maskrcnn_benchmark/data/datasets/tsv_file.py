"""Tab-separated files with a row per picture, read by row number.

A file `NAME.tsv` has an index `NAME.lineidx` beside it: the byte offset of every row, one decimal number per line. A
missing index is made.
"""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

logger = logging.getLogger(__name__)

_CHUNK = 1 << 24  # bytes scanned at a time for the ends of rows
_KEY_BYTES = 512  # read at first for the key of a row; longer keys take a second read
_NEWLINE = ord("\n")


def line_index_path(path: str | os.PathLike[str]) -> Path:
    """`images.tsv` -> `images.lineidx`."""
    return Path(path).with_suffix(".lineidx")


def find_row_offsets(path: str | os.PathLike[str]) -> np.ndarray:
    """Byte offset of every row of a file, (N,) int64; an empty file has none."""
    starts = [np.zeros(1, dtype=np.int64)]
    position = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            starts.append(np.flatnonzero(np.frombuffer(chunk, dtype=np.uint8) == _NEWLINE) + position + 1)
            position += len(chunk)
    offsets = np.concatenate(starts)
    return offsets[offsets < position]


def write_line_index(path: str | os.PathLike[str], offsets: Iterable[int]) -> None:
    """Writes the index of the file at `path`; a reader never sees a part of it."""
    index = line_index_path(path)
    unfinished = index.with_name(f"{index.name}.{os.getpid()}.tmp")
    unfinished.write_text("".join(f"{offset}\n" for offset in offsets))
    os.replace(unfinished, index)


def read_line_index(path: str | os.PathLike[str]) -> np.ndarray:
    """Offsets (N,) int64 from the index of the file at `path`, which is made where it is missing.

    Raises: ValueError if the index is not a list of ascending numbers.
    """
    index = line_index_path(path)
    if not index.is_file():
        offsets = find_row_offsets(path)
        try:
            write_line_index(path, offsets.tolist())
        except OSError as error:
            logger.info("%s could not be saved and is made at every start: %s", index, error)
        return offsets
    if not index.stat().st_size:
        return np.zeros(0, dtype=np.int64)
    try:
        offsets = np.loadtxt(index, dtype=np.int64, ndmin=1)
    except ValueError as error:
        raise ValueError(f"index {index} does not have one byte offset per line: {error}") from error
    if offsets.ndim != 1 or offsets[0] != 0 or np.any(np.diff(offsets) <= 0):
        raise ValueError(f"index {index} does not have ascending byte offsets from 0")
    return offsets


class TSVFile:
    """Row i of a tab-separated file as a list of cells.

    Rows are read where they lie, without a file position, so processes forked from this one can share the open file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the index beside the file does not fit to it; the text names both.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        if not os.path.isfile(self.path):
            raise FileNotFoundError(f"TSV file {self.path} does not exist")
        self._file: BinaryIO | None = None
        offsets = read_line_index(self.path)
        self._bounds = np.append(offsets, os.path.getsize(self.path))
        self._check_index()

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def num_rows(self) -> int:
        """Number of rows."""
        return len(self)

    def __getitem__(self, row: int) -> list[str]:
        return [cell.decode() for cell in self.cells(row)]

    def seek(self, row: int) -> list[str]:
        """The cells of a row as text."""
        return self[row]

    def cells(self, row: int) -> list[bytes]:
        """The cells of a row, without white space around them and not decoded."""
        return [cell.strip() for cell in self._read(row).split(b"\t")]

    def key(self, row: int) -> str:
        """The first cell of a row; the others are not read."""
        head = self._read(row, _KEY_BYTES)
        if b"\t" not in head:
            head = self._read(row)
        return head.split(b"\t", 1)[0].strip().decode()

    get_key = key

    def close(self) -> None:
        """Closes the file; reading opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self, row: int, limit: int | None = None) -> bytes:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {self.path}, which has {len(self)} rows")
        if self._file is None:
            self._file = open(self.path, "rb", buffering=0)
        begin, end = int(self._bounds[row]), int(self._bounds[row + 1])
        size = end - begin if limit is None else min(end - begin, limit)
        data = os.pread(self._file.fileno(), size, begin)
        if len(data) != size:
            raise ValueError(f"row {row} of {self.path} ends after {len(data)} of {size} bytes")
        return data

    def _check_index(self) -> None:
        """Reads a few rows: each must be a whole line."""
        count = len(self)
        fits = bool(self._bounds[-1]) == bool(count) and (not count or self._bounds[-2] < self._bounds[-1])
        for row in sorted({0, count // 2, count - 1}) if fits and count else ():
            end = self._read(row).find(b"\n")
            size = int(self._bounds[row + 1] - self._bounds[row])
            fits = fits and (end == size - 1 or (row == count - 1 and end == -1))  # no line break at the file's end
        if not fits:
            raise ValueError(
                f"index {line_index_path(self.path)} of {count} rows does not fit to {self.path}: delete it, "
                "and it will be made anew"
            )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}


class TSVWriter:
    """Writes rows to a file and, when its block ends without an error, the index beside it."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        self._offsets: list[int] = []

    def __enter__(self) -> "TSVWriter":
        self._file = open(self.path, "wb")
        self._position = 0
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is None:
            write_line_index(self.path, self._offsets)

    def write(self, *cells: str | bytes) -> None:
        """Appends a row. Raises: ValueError for a cell with a tab or a line break in it."""
        encoded = [cell.encode() if isinstance(cell, str) else cell for cell in cells]
        for cell in encoded:
            if b"\t" in cell or b"\n" in cell:
                raise ValueError(f"{self.path}: a cell must not have tabs or line breaks: {cell[:80]!r}")
        row = b"\t".join(encoded) + b"\n"
        self._offsets.append(self._position)
        self._position += self._file.write(row)
