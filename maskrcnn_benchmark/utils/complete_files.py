"""Files and folders that get their names only when they are complete."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL_MARK = ".partial-"
"""In the names of folders that are being filled, or that a kill left behind."""
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")  # as atomic_path names them


@contextmanager
def completed_folder(out: Path) -> Iterator[Path]:
    """A folder to fill beside ``out``, which takes the name ``out`` once it is complete and vanishes otherwise."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial_folder = out.with_name(f".{out.name}{PARTIAL_MARK}{os.getpid()}")
    partial_folder.mkdir()
    try:
        yield partial_folder
        if out.is_dir():
            out.rmdir()
        partial_folder.rename(out)
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)


def remove_partial_folders(parent: Path) -> int:
    """Removes what runs that were killed have left in a folder; returns how many."""
    left = list(parent.glob(f".*{PARTIAL_MARK}*"))
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)
    return len(left)


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, is_durable: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside ``path``, renamed to it on success and removed on failure.

    A kill never leaves half a file under the name; with ``is_durable`` a power cut does not either, as what was written
    is on the disk before it gets its name.

    Raises: OSError naming ``path`` when it cannot be written, on a full disk for example.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:50]}.{os.getpid()}.tmp")  # a name may have 255 bytes
    try:
        yield temporary
        if is_durable:
            _flush(temporary)
        os.replace(temporary, path)
        if is_durable:
            _flush(path.parent)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: str | os.PathLike[str]) -> list[Path]:
    """Removes the temporary files that `atomic_path` left in a folder when its process was killed; returns their paths.

    No other process may be writing there.
    """
    leftovers = [path for path in Path(folder).glob(".*.tmp") if _TEMPORARY.fullmatch(path.name)]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return leftovers


def _flush(path: Path) -> None:
    """Waits until the file, or the names in the folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_complete(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file, which a reader sees whole or not at all. Raises: OSError, see `atomic_path`."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")
