"""Unpacks archives from the network: nothing is written outside the folder, and nothing but plain files."""

import os
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from tqdm import tqdm

IGNORED = ("__MACOSX/", ".DS_Store")  # what one desktop system adds to archives
CHUNK_BYTES = 1 << 20


class ArchiveError(ValueError):
    """An archive that is damaged, or that would write where it must not; the text names archive and member."""


class _Member(NamedTuple):
    name: str
    content: IO[bytes]


def unpack(archive: Path, folder: Path, *, flatten: bool = False, progress: bool = True) -> int:
    """Unpacks a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz archive into `folder`; returns the number of files.

    Each file gets its name when it is complete, and replaces one of that name; running again after an interruption
    is safe.

    Args:
        flatten: leave out the folders of the archive; all its files must then have different names.
        progress: show a progress bar on a terminal.
    Raises:
        ArchiveError: the archive is damaged or encrypted, or a member is a link or device, or lies outside the folder.
        OSError: writing failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: set[str] = set()
    bar = tqdm(unit="file", desc=f"unpacking {archive.name}", disable=None if progress else True)
    try:
        with bar:
            for member in _members(archive):
                relative = _relative_path(archive, member.name)
                target = relative.name if flatten else str(relative)
                if target in written:
                    raise ArchiveError(f"{archive} holds two files {target!r}")
                written.add(target)
                _write(member.content, folder / target)
                bar.update()
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError) as error:
        raise ArchiveError(f"{archive} is damaged: {error}") from error
    if not written:
        raise ArchiveError(f"{archive} holds no file")
    return len(written)


def _members(archive: Path) -> Iterator[_Member]:
    """The plain files of an archive, each readable until the next is asked for."""
    if tarfile.is_tarfile(archive):  # first: a tar archive that ends with a zip looks like a zip, too
        yield from _tar_members(archive)
    elif zipfile.is_zipfile(archive):
        yield from _zip_members(archive)
    else:
        raise ArchiveError(f"{archive} is neither a zip nor a tar archive, or it is damaged")


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        infos = [info for info in file.infolist() if not info.is_dir() and not _is_ignored(info.filename)]
        for info in infos:  # a listing is at hand here, so that a bad archive writes nothing
            _relative_path(archive, info.filename)
            if info.flag_bits & 1:
                raise ArchiveError(f"{archive} is encrypted (member {info.filename!r})")
            if (info.external_attr >> 16) & 0o170000 not in (0, 0o100000):
                raise ArchiveError(f"{archive} has a member that is not a plain file: {info.filename!r}")
        _check_space(archive, sum(info.file_size for info in infos))
        for info in infos:
            with file.open(info) as content:
                yield _Member(info.filename, content)


def _tar_members(archive: Path) -> Iterator[_Member]:
    with tarfile.open(archive) as file:
        for info in file:
            if info.isdir() or _is_ignored(info.name):
                continue
            content = file.extractfile(info) if info.isreg() else None
            if content is None:
                raise ArchiveError(f"{archive} has a member that is not a plain file: {info.name!r}")
            yield _Member(info.name, content)


def _is_ignored(name: str) -> bool:
    return name.startswith(IGNORED[0]) or PurePosixPath(name).name == IGNORED[1]


def _check_space(archive: Path, needed: int) -> None:
    free = shutil.disk_usage(archive.parent).free
    if needed > free:
        raise OSError(f"{archive} unpacks to {needed:,} bytes, {archive.parent} has {free:,} free")


def _relative_path(archive: Path, name: str) -> PurePosixPath:
    """The member's path below the folder; ArchiveError if it leads elsewhere."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or re.match("[A-Za-z]:", name) or not path.name:
        raise ArchiveError(f"{archive} has a member outside its folder: {name!r}")
    return path


def _write(content: IO[bytes], target: Path) -> None:
    """Copies into a temporary file and renames it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.part")
    with temporary.open("wb") as file:
        shutil.copyfileobj(content, file, CHUNK_BYTES)
    os.replace(temporary, target)
