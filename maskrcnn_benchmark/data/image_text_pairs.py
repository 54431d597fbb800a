"""Pictures with captions but without boxes, in pieces that can be read independently of each other.

They lie in JSON lines beside a folder of pictures, in tar files as webdataset writes them, or in TSV files.
"""

import glob
import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

from maskrcnn_benchmark.data.datasets.caption_record import read_caption
from maskrcnn_benchmark.data.datasets.tsv_file import find_row_offsets
from maskrcnn_benchmark.data.datasets.tsv_rows import TSVRows

JSON_LINES, TAR, TSV = (".jsonl", ".ndjson"), (".tar",), (".yaml", ".yml")
PICTURE_NAMES = ("file_name", "image")
CAPTION_NAMES = ("caption", "captions", "text")
PICTURE_ENDINGS = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "gif", "ppm", "tif", "tiff"})
CAPTION_ENDINGS = ("txt", "caption")

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class Pair(NamedTuple):
    """A picture and a caption.

    Attributes:
        key: different for every pair of a shard.
        source: name of the picture, for messages.
        caption: empty where there is none.
        read: returns the bytes of the picture file; OSError or ValueError if it cannot.
        problem: why the pair cannot be used at all, or empty.
        position: how much of the shard has been read with this pair, of its `size`.
    """

    key: str
    source: str
    caption: str
    read: Callable[[], bytes]
    problem: str
    position: int


class PairShard(Protocol):
    """A piece of the pairs. Going through it again gives the same pairs in the same order.

    Attributes:
        name: of the files made from it, different for every shard.
        size: what `position` of its last pair comes to, in `unit`.
        source: what it was read from, to tell whether that has changed; in JSON's types.
    """

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def unit(self) -> str: ...
    @property
    def source(self) -> dict[str, Any]: ...
    def __iter__(self) -> Iterator[Pair]: ...


@dataclass(frozen=True)
class JsonLinesShard:
    """Lines of a file, from number `first` (from 0) on, between two byte offsets; pictures lie below `images`.

    A line is an object with the picture as `file_name` or `image` and its text as `caption`, `captions` or `text`.
    Empty lines are no pairs.
    """

    path: Path
    images: Path
    name: str
    first: int
    size: int
    begin: int
    end: int
    unit = "pair"

    @property
    def source(self) -> dict[str, Any]:
        return {"file": str(self.path), "lines": [self.first, self.first + self.size], "bytes": [self.begin, self.end]}

    def __iter__(self) -> Iterator[Pair]:
        with self.path.open("rb") as file:
            file.seek(self.begin)
            for position in range(1, self.size + 1):
                line, number = file.readline().strip(), self.first + position
                if line:
                    yield self._pair(line, f"{self.path.stem}:{number}", position)

    def _pair(self, line: bytes, key: str, position: int) -> Pair:
        try:
            record = json.loads(line)
            name = next((record[field] for field in PICTURE_NAMES if field in record), None)
            if not isinstance(name, str):
                raise ValueError(f"no picture under {' or '.join(PICTURE_NAMES)}")
        except (ValueError, TypeError) as error:
            return Pair(key, str(self.path), "", bytes, f"{error}: {line[:80]!r}", position)
        return Pair(key, name, _caption_of(record), (self.images / name).read_bytes, "", position)


@dataclass(frozen=True)
class TarShard:
    """A tar file whose neighbouring members with the same name up to the first dot belong together: 7.jpg and 7.txt.

    The caption is the member .txt (or .caption), or the entry `caption` of the member .json.
    """

    path: Path
    size: int
    unit = "B"

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def source(self) -> dict[str, Any]:
        return {"file": str(self.path), "bytes": self.size}

    def __iter__(self) -> Iterator[Pair]:
        """Raises: ValueError if the file is damaged, or holds members of one name twice or in different places."""
        seen: set[str] = set()
        try:
            with tarfile.open(self.path, "r:") as archive:
                for key, members, position in _groups(archive):
                    if key in seen:
                        raise ValueError(f"{self.path}: the members of {key!r} do not stand together")
                    seen.add(key)
                    yield self._pair(key, members, position)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ValueError(f"tar file {self.path} cannot be read: {error}") from error

    def _pair(self, key: str, members: Mapping[str, bytes], position: int) -> Pair:
        name = re.sub(r"\s", "_", f"{self.path.stem}:{key}")
        ending = next((ending for ending in members if ending in PICTURE_ENDINGS), None)
        caption, problem = "", "" if ending else f"no picture among {', '.join(members)}"
        try:
            text = next((members[ending].decode() for ending in CAPTION_ENDINGS if ending in members), None)
            caption = _caption_of(json.loads(members.get("json", b"{}"))) if text is None else text.strip()
        except ValueError as error:
            problem = f"unreadable caption: {error}"
        picture = members[ending] if ending else b""
        return Pair(name, f"{self.path}/{key}.{ending}", caption, partial(bytes, picture), problem, position)


@dataclass(frozen=True)
class TSVShard:
    """Rows of a TSV dataset with captions, from number `first` on; see DATASETS.INFERENCE_CAPTION."""

    rows: TSVRows
    name: str
    first: int
    size: int
    unit = "pair"

    @property
    def source(self) -> dict[str, Any]:
        return {"file": self.rows.yaml_file, "rows": [self.first, self.first + self.size], "of": len(self.rows)}

    def __iter__(self) -> Iterator[Pair]:
        for index in range(self.first, self.first + self.size):
            key, caption, picture, problem = self.rows.key(index), "", b"", ""
            try:
                caption, picture = read_caption(self.rows.label(index)).strip(), self.rows.image_bytes(index)
            except ValueError as error:
                problem = str(error)
            yield Pair(key, key, caption, partial(bytes, picture), problem, index - self.first + 1)


def find_shards(inputs: Sequence[str], images: Path | None = None, pairs_per_shard: int = 1000) -> list[PairShard]:
    """The shards of files, folders of tar files, and patterns such as 'cc3m/{00000..00331}.tar' or 'cc3m/*.tar'.

    Args:
        images: folder of the pictures of JSON lines; by default the one of the file with the lines.
        pairs_per_shard: of JSON lines and TSV files; a tar file is a shard.
    Raises:
        FileNotFoundError: nothing is there.
        ValueError: a file is of another kind, two files would give shards of one name, or there is nothing in them.
    """
    if pairs_per_shard < 1:
        raise ValueError(f"{pairs_per_shard} pairs per shard: give a positive number")
    if images is not None and not images.is_dir():
        raise FileNotFoundError(f"the folder of pictures '{images}' does not exist")
    shards: list[PairShard] = []
    for path in dict.fromkeys(path for text in inputs for path in _expand(text)):
        suffix = path.suffix.lower()
        if suffix in JSON_LINES:
            shards += _json_lines_shards(path, path.parent if images is None else images, pairs_per_shard)
        elif suffix in TAR:
            shards.append(TarShard(path, path.stat().st_size))
        elif suffix in TSV:
            rows = TSVRows(path)
            shards += [
                TSVShard(rows, name, first, size) for name, first, size in _cut(path, len(rows), pairs_per_shard)
            ]
        else:
            raise ValueError(f"'{path}' is none of {', '.join((*JSON_LINES, *TAR, *TSV))}")
    repeated = [name for name, count in Counter(shard.name for shard in shards).items() if count > 1]
    if repeated:
        raise ValueError(f"two inputs would both become the shard {repeated[0]!r}: rename one, or label it elsewhere")
    if not shards:
        raise ValueError(f"no pair of a picture and a caption in {', '.join(inputs)}")
    return shards


def _expand(text: str) -> list[Path]:
    """The files that a name, a folder or a pattern stands for."""
    match = _RANGE.search(text)
    if match:
        first, last = match.groups()
        numbers = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
        return [path for number in numbers for path in _expand(text[: match.start()] + number + text[match.end() :])]
    path = Path(text)
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in TAR)
        if not found:
            raise FileNotFoundError(f"no tar file in the folder '{path}'; name a .jsonl file for a folder of pictures")
        return found
    found = [path] if path.is_file() or not glob.has_magic(text) else sorted(map(Path, glob.glob(text, recursive=True)))
    if not found or not all(file.is_file() for file in found):
        raise FileNotFoundError(f"no file '{text}'")
    return found


def _json_lines_shards(path: Path, images: Path, pairs_per_shard: int) -> list[JsonLinesShard]:
    offsets = [*find_row_offsets(path).tolist(), path.stat().st_size]
    return [
        JsonLinesShard(path, images, name, first, size, offsets[first], offsets[first + size])
        for name, first, size in _cut(path, len(offsets) - 1, pairs_per_shard)
    ]


def _cut(path: Path, count: int, pairs_per_shard: int) -> list[tuple[str, int, int]]:
    """(name, first pair, number of pairs) of the shards of a file."""
    firsts = range(0, count, pairs_per_shard)
    return [
        (f"{path.stem}-{number:05d}", first, min(pairs_per_shard, count - first)) for number, first in enumerate(firsts)
    ]


def _caption_of(record: Any) -> str:
    """The caption of a JSON object, empty where it has none."""
    value = next((record[field] for field in CAPTION_NAMES if field in record), "") if record else ""
    try:
        return read_caption(value).strip()
    except ValueError:
        return ""


def _groups(archive: tarfile.TarFile) -> Iterator[tuple[str, dict[str, bytes], int]]:
    """(name, {ending: content}, bytes read until then) of neighbouring members with one name up to its first dot.

    Raises: ValueError for a member that comes twice: it would take the place of the first, and a pair would be lost.
    """
    key: str | None = None
    members: dict[str, bytes] = {}
    position = 0
    for info in archive:
        if not info.isreg():
            continue
        path = PurePosixPath(info.name)
        name, _, ending = path.name.partition(".")
        name = str(path.with_name(name)) if name else path.name
        if name != key:
            if key is not None:
                yield key, members, position
            key, members = name, {}
        if ending.lower() in members:
            raise ValueError(f"{archive.name!s}: the member {info.name!r} comes twice")
        content = archive.extractfile(info)
        members[ending.lower()] = content.read() if content is not None else b""
        position = info.offset_data + info.size
    if key is not None:
        yield key, members, position
