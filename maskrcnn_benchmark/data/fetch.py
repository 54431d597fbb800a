"""Downloads public datasets and unpacks them where the catalogue looks for them."""

import difflib
import logging
import os
from pathlib import Path
from urllib.parse import quote

from maskrcnn_benchmark.config.public_data import HUGGING_FACE, PUBLIC_SETS, PublicFile, PublicSet
from maskrcnn_benchmark.utils.archives import ArchiveError, unpack
from maskrcnn_benchmark.utils.download import download

logger = logging.getLogger(__name__)


def find_public_set(name: str) -> PublicSet:
    """The set of that name; ODinW tasks go by their own name too. Raises: ValueError with the nearest name."""
    for candidate in (name, f"odinw/{name}"):
        if candidate in PUBLIC_SETS:
            return PUBLIC_SETS[candidate]
    close = difflib.get_close_matches(name, PUBLIC_SETS, n=1) or difflib.get_close_matches(
        f"odinw/{name}", PUBLIC_SETS, n=1, cutoff=0.8
    )
    hint = f"did you mean {close[0]!r}?" if close else "glip data download --list shows the names"
    raise ValueError(f"no public dataset is called {name!r}; {hint}")


def data_folder() -> Path:
    """Where downloads go: the first folder in the environment variable DATASET, else ./DATASET."""
    given = [root for root in os.environ.get("DATASET", "").split(os.pathsep) if root]
    return Path(given[0] if given else "DATASET").expanduser()


def address(file: PublicFile, mirror: str | None = None) -> str:
    """Where the file is fetched from.

    Args:
        mirror: address of a server that has the file under the same path; by default that of the environment variable
            GLIP_MIRROR. HF_ENDPOINT replaces https://huggingface.co alone.
    """
    mirror = mirror or os.environ.get("GLIP_MIRROR")
    server = mirror or file.server
    endpoint = os.environ.get("HF_ENDPOINT")
    if endpoint and not mirror and server.startswith(HUGGING_FACE):
        server = endpoint.rstrip("/") + server.removeprefix(HUGGING_FACE)
    return f"{server.rstrip('/')}/{quote(file.path)}"


def fetch(
    file: PublicFile,
    root: Path,
    *,
    mirror: str | None = None,
    keep_archive: bool = False,
    progress: bool = True,
    retry_wait_s: float = 1.0,
) -> Path:
    """Puts one file in its place below `root`, unless it is there, and returns that place.

    An archive that was unpacked leaves an empty marker file, by which a later call knows that it is done; one that is
    damaged is removed, so that a later call fetches it again.

    Args:
        keep_archive: do not remove an archive after unpacking it.
        progress, retry_wait_s: as for `download`.
    Raises: DownloadError; ArchiveError; OSError.
    """
    target = root / file.target
    url = address(file, mirror)
    if not file.is_archive:
        return download(url, target, sha256=file.sha256, progress=progress, retry_wait_s=retry_wait_s)
    name = Path(file.path).name
    marker = target / f".{name}.unpacked"
    if marker.exists():
        return target
    archive = download(url, target / name, sha256=file.sha256, progress=progress, retry_wait_s=retry_wait_s)
    try:
        unpack(archive, target, flatten=file.flatten, progress=progress)
    except ArchiveError:
        archive.unlink(missing_ok=True)
        raise
    marker.touch()
    if not keep_archive:
        archive.unlink()
    return target
