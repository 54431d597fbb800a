"""Several tab-separated files as one."""

from collections.abc import Sequence

import numpy as np

from maskrcnn_benchmark.data.datasets.tsv_file import TSVFile

OPEN_PARTS = 32
"""Files that one set keeps open; systems commonly allow a process about a thousand."""

Paths = str | tuple[str, ...]


class TSVParts:
    """The rows of several files, one after the other, with what TSVFile has to read a row.

    Args:
        paths: of the files, at least one.
    Raises: as TSVFile does.
    """

    def __init__(self, paths: Sequence[str]):
        self.path = f"{paths[0]} and {len(paths) - 1} more parts"
        self._parts = [_closed(TSVFile(path)) for path in paths]
        self._ends = np.cumsum([len(part) for part in self._parts])
        self._open: dict[int, None] = {}  # numbers of parts, the one that was read last at the end

    def __len__(self) -> int:
        return int(self._ends[-1])

    def num_rows(self) -> int:
        """Number of rows."""
        return len(self)

    def cells(self, row: int) -> list[bytes]:
        """The cells of a row, see TSVFile."""
        part, inner = self._find(row)
        return part.cells(inner)

    def key(self, row: int) -> str:
        """The first cell of a row."""
        part, inner = self._find(row)
        return part.key(inner)

    def _find(self, row: int) -> tuple[TSVFile, int]:
        """The file of a row, and the number of the row in it."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {self.path}, which have {len(self)} rows")
        number = int(np.searchsorted(self._ends, row, side="right"))
        self._open.pop(number, None)
        self._open[number] = None
        if len(self._open) > OPEN_PARTS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            self._parts[oldest].close()
        part = self._parts[number]
        return part, row - int(self._ends[number]) + len(part)


def _closed(file: TSVFile) -> TSVFile:
    """The file, which has been opened for a look at its index."""
    file.close()
    return file


def open_rows(paths: Paths) -> TSVFile | TSVParts:
    """One file, or several as one."""
    return TSVFile(paths) if isinstance(paths, str) else TSVParts(paths)
