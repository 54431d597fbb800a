"""Published weights by name: where they lie, and where their local copies are kept.

Environment: ``GLIP_CACHE`` is the folder of the copies (default ``~/.cache/glip``), ``GLIP_MIRROR`` the base address of
a server that offers the same file names, ``HF_ENDPOINT`` replaces ``https://huggingface.co``, and ``GLIP_OFFLINE=1`` or
``HF_HUB_OFFLINE=1`` forbids any download.
"""

import difflib
import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlparse

from maskrcnn_benchmark.config.paths_catalog import ModelCatalog
from maskrcnn_benchmark.utils.download import DownloadError, download, is_offline

__all__ = [
    "CATALOG_SCHEME",
    "PUBLISHED",
    "TEXT_ENCODERS",
    "DownloadError",
    "PublishedFile",
    "cache_dir",
    "cache_url",
    "is_offline",
    "resolve_text_files",
    "resolve_weights",
]

CATALOG_SCHEME = "catalog://"
EMBEDDED = {"glip_nano": Path(__file__).parents[1] / "assets" / "glip_nano" / "model.safetensors"}
"""Weights that are part of the package."""
TEXT_FILES = ("config.json", "vocab.txt")
"""What of a text encoder a detector needs whose checkpoint holds the text weights."""


class PublishedFile(NamedTuple):
    """One file of a Hugging Face repository."""

    repository: str
    filename: str
    sha256: str | None = None  # None: the checksum that the server announces is used


def _glip(filename: str) -> tuple[PublishedFile, ...]:
    return (PublishedFile("GLIPModel/GLIP", filename),)


# A name stands for one file, or for a folder of several.
PUBLISHED: dict[str, tuple[PublishedFile, ...]] = {
    "glip_a_tiny_o365": _glip("glip_a_tiny_o365.pth"),
    "glip_tiny_model_o365": _glip("glip_tiny_model_o365.pth"),
    "glip_tiny_model_o365_goldg": _glip("glip_tiny_model_o365_goldg.pth"),
    "glip_tiny_model_o365_goldg_cc_sbu": _glip("glip_tiny_model_o365_goldg_cc_sbu.pth"),
    "glip_large_model": _glip("glip_large_model.pth"),
    "swin_tiny_patch4_window7_224": _glip("swin_tiny_patch4_window7_224.pth"),
    "swin_large_patch4_window12_384_22k": _glip("swin_large_patch4_window12_384_22k.pth"),
    "bert-base-uncased": (
        PublishedFile("google-bert/bert-base-uncased", "config.json"),
        PublishedFile(
            "google-bert/bert-base-uncased",
            "vocab.txt",
            "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        ),
        PublishedFile("google-bert/bert-base-uncased", "tokenizer.json"),
        PublishedFile("google-bert/bert-base-uncased", "tokenizer_config.json"),
        PublishedFile("google-bert/bert-base-uncased", "model.safetensors"),
    ),
}


TEXT_ENCODERS = {"bert-base-uncased": "google-bert/bert-base-uncased"}
"""Text encoders of the published detectors: name -> Hugging Face repository."""


def cache_dir() -> Path:
    """Folder that keeps downloaded weights."""
    return Path(os.environ.get("GLIP_CACHE") or Path.home() / ".cache" / "glip").expanduser()


def resolve_weights(name_or_path: str | os.PathLike[str], *, progress: bool = True) -> Path:
    """Return the local path of weights, downloading them if they are given by published name or address.

    Args:
        name_or_path: an existing file or folder, a name of `PUBLISHED` (with or without ``.pth``) or `EMBEDDED`, an
            http(s) address, or ``catalog://`` followed by a name of `ModelCatalog`.
    Raises: FileNotFoundError listing the published names; DownloadError.
    """
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    text = str(name_or_path)
    if text.startswith(CATALOG_SCHEME):
        return resolve_weights(ModelCatalog.get(text.removeprefix(CATALOG_SCHEME)), progress=progress)
    if text.startswith(("http://", "https://")):
        return Path(cache_url(text, str(cache_dir()), progress=progress))
    name = text.removesuffix(".pth")
    if name in PUBLISHED:
        return _fetch_published(name, progress)
    if text in EMBEDDED:
        return EMBEDDED[text]
    raise FileNotFoundError(_not_found(path))


def resolve_text_files(name: str, *, progress: bool = True) -> Path:
    """The folder with `TEXT_FILES` of a text encoder of `TEXT_ENCODERS`, downloaded where it lacks them.

    Raises: DownloadError.
    """
    return _fetch_published(name, progress, only=TEXT_FILES)


def _not_found(path: Path) -> str:
    if path.stem in PUBLISHED:
        return f"weight file {path} does not exist; the name alone, {path.stem!r}, downloads it"
    close = difflib.get_close_matches(path.stem, PUBLISHED, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{path} is neither an existing file nor a published name ({', '.join(PUBLISHED)}).{hint}"


def _fetch_published(name: str, progress: bool, *, only: tuple[str, ...] | None = None) -> Path:
    files = PUBLISHED[name]
    folder = cache_dir() if len(files) == 1 else cache_dir() / name
    for file in files:
        if only is not None and file.filename not in only:
            continue
        url = _address(file, folder_name="" if len(files) == 1 else name)
        download(url, folder / file.filename, sha256=file.sha256, progress=progress)
    return folder / files[0].filename if len(files) == 1 else folder


def _address(file: PublishedFile, folder_name: str) -> str:
    """Address of a published file; on a mirror, files of a folder lie in a folder of that name."""
    mirror = os.environ.get("GLIP_MIRROR")
    if mirror:
        return "/".join(part for part in (mirror.rstrip("/"), folder_name, quote(file.filename)) if part)
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    return f"{endpoint}/{file.repository}/resolve/main/{quote(file.filename)}"


def cache_url(url: str, model_dir: str | os.PathLike[str] = "model", progress: bool = True) -> str:
    """Download ``url`` into ``model_dir`` unless it is there, and return the path of the file.

    A name such as ``resnet50-19c8e357.pth`` carries the first digits of its checksum, which are then checked. Several
    processes may call this at the same time.
    """
    path = urlparse(url).path
    filename = os.path.basename(path)
    if filename == "model_final.pkl":  # a common last part of addresses: the whole path makes the name unique
        filename = path.strip("/").replace("/", "_")
    if not filename:
        raise ValueError(f"address {url!r} names no file")
    digits = re.search(r"-([0-9a-f]{6,64})\.", filename)
    return str(download(url, Path(model_dir) / filename, sha256=digits[1] if digits else None, progress=progress))
