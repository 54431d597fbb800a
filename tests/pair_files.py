"""Pictures with captions that the tests label: as JSON lines, as a tar file, as TSV files."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tsv_files import png, write_tsv_dataset

CAPTIONS = ("a dog near a red car", "two cats", "a bird on a house", "the old tree", "a ring, a book and a key")


def write_json_lines(folder: Path, captions: Sequence[str] = CAPTIONS, name: str = "pairs.jsonl") -> Path:
    """A file whose line i has picture i.png, with red 10 * i."""
    lines = []
    for number, caption in enumerate(captions):
        (folder / f"{number}.png").write_bytes(png(10 * number))
        lines.append(json.dumps({"file_name": f"{number}.png", "caption": caption}))
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """A tar file with these members in their order."""
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_webdataset(path: Path, captions: Sequence[str] = CAPTIONS) -> Path:
    """A tar file whose pair i has the members i.png and i.txt."""
    members: dict[str, bytes] = {}
    for number, caption in enumerate(captions):
        members |= {f"{number:03d}.png": png(10 * number), f"{number:03d}.txt": caption.encode()}
    return write_tar(path, members)


def write_caption_tsv(folder: Path, captions: Sequence[str] = CAPTIONS) -> Path:
    """The YAML file of TSV files with captions alone."""
    return write_tsv_dataset(folder, {str(number): {"caption": caption} for number, caption in enumerate(captions)})


def contents(out: Path) -> dict[str, bytes]:
    """Every file below a folder, but the log and the lock."""
    files = (path for path in out.rglob("*") if path.is_file() and path.name not in ("log.txt", ".lock"))
    return {str(path.relative_to(out)): path.read_bytes() for path in files}
