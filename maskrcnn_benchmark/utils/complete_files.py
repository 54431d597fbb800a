"""Files and folders that get their names only when they are complete."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL_MARK = ".partial-"
"""In the names of folders that are being filled, or that a kill left behind."""


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


def write_complete(path: Path, text: str) -> None:
    """Writes a file, which a reader sees whole or not at all."""
    unfinished = path.with_name(f".{path.name}{PARTIAL_MARK}{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
