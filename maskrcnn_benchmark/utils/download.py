"""Fetches one file over HTTP: resumes where a connection broke off, checks what arrives, lets one process work."""

import hashlib
import http.client
import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NoReturn

from filelock import FileLock
from tqdm import tqdm

from maskrcnn_benchmark.utils.weight_files import looks_like_html

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
MAX_IDLE_ATTEMPTS = 4  # in a row, without a single new byte
TIMEOUT_S = 60.0
TEMPORARY_STATUS = (408, 425, 429, 500, 502, 503, 504)


class DownloadError(OSError):
    """A file could not be fetched; the message names the address and what to do."""


class _InterruptedTransfer(Exception):
    """The transfer ended early; another attempt may go on from there."""


def is_offline() -> bool:
    """True if GLIP_OFFLINE or HF_HUB_OFFLINE is set to something other than 0, false or no."""
    values = (os.environ.get(name, "") for name in ("GLIP_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value.lower() not in ("", "0", "false", "no") for value in values)


def hub_attempts() -> tuple[bool, ...]:
    """Values of ``local_files_only`` to try in turn with the Hugging Face libraries.

    Their cache comes first, as it needs no network: asking an unreachable hub takes them minutes.
    """
    return (True,) if is_offline() else (True, False)


def download(
    url: str,
    path: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    progress: bool = True,
    retry_wait_s: float = 1.0,
) -> Path:
    """Return ``path``, fetching it from ``url`` first if it does not exist.

    Data collects in ``path.part``, which a later call resumes, and gets its name when complete and checked. Processes
    that ask for the same file wait for the first one.

    Args:
        sha256: expected checksum or its first digits; without it, one that the server announces is checked.
        progress: show a progress bar on a terminal.
        retry_wait_s: pause after the first interruption, doubled after each further one.
    Raises: DownloadError; ValueError if the address is not an HTTP address.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"cannot download from {url!r}: the address must start with http:// or https://")
    if is_offline():
        raise DownloadError(
            f"{path} does not exist and offline mode is on (GLIP_OFFLINE or HF_HUB_OFFLINE); fetch {url} on another "
            "machine and put it there, or switch offline mode off"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if not path.is_file():  # another process may have fetched it while this one waited
            _Transfer(url, path, progress).run(sha256, retry_wait_s)
    return path


class _RedirectHandler(urllib.request.HTTPRedirectHandler):
    """Keeps the checksum that Hugging Face announces when it redirects to its storage."""

    announced: str | None = None

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> Any:
        self.announced = headers.get("X-Linked-ETag", self.announced)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Transfer:
    """One file on its way: what has arrived lies in ``partial``, the version it belongs to in ``etag_file``."""

    def __init__(self, url: str, path: Path, progress: bool) -> None:
        self.url = url
        self.path = path
        self.progress = progress
        self.partial = path.with_name(f"{path.name}.part")
        self.etag_file = path.with_name(f"{path.name}.part.etag")
        self.announced: str | None = None

    def run(self, sha256: str | None, retry_wait_s: float) -> None:
        idle_attempts = 0
        while True:
            before = self.received()
            try:
                self.receive()
                break
            except _InterruptedTransfer as error:
                idle_attempts = 0 if self.received() > before else idle_attempts + 1
                if idle_attempts == MAX_IDLE_ATTEMPTS:
                    raise DownloadError(
                        f"{self.url} keeps breaking off ({error}); {self.received():,} bytes are kept in "
                        f"{self.partial}, call again to resume"
                    ) from error
                logger.warning("Download of %s interrupted (%s), trying again", self.url, error)
            time.sleep(retry_wait_s * 2**idle_attempts)
        self.check(sha256 or self.announced)
        os.replace(self.partial, self.path)
        self.etag_file.unlink(missing_ok=True)

    def received(self) -> int:
        """Bytes that lie in the partial file."""
        return self.partial.stat().st_size if self.partial.exists() else 0

    def discard(self) -> None:
        self.partial.unlink(missing_ok=True)
        self.etag_file.unlink(missing_ok=True)

    def receive(self) -> None:
        """Ask for what is missing and append it to the partial file."""
        handler = _RedirectHandler()
        try:
            with urllib.request.build_opener(handler).open(self.request(), timeout=TIMEOUT_S) as response:
                announced = response.headers.get("X-Linked-ETag", handler.announced) or ""
                if re.fullmatch(r"[0-9a-f]{64}", announced.strip('"')):
                    self.announced = announced.strip('"')
                self.copy(response)
        except urllib.error.HTTPError as error:
            self.explain_status(error)
        except urllib.error.URLError as error:
            if self.received():
                raise _InterruptedTransfer(str(error.reason)) from error
            raise DownloadError(
                f"{self.url} cannot be reached ({error.reason}); check the network, or set GLIP_MIRROR"
            ) from error
        except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
            raise _InterruptedTransfer(f"{type(error).__name__}: {error}") from error

    def request(self) -> urllib.request.Request:
        headers = {"User-Agent": "maskrcnn-benchmark", "Accept-Encoding": "identity"}
        if self.received():
            headers["Range"] = f"bytes={self.received()}-"
            if self.etag_file.exists():
                headers["If-Range"] = self.etag_file.read_text(encoding="utf-8")
        return urllib.request.Request(self.url, headers=headers)

    def copy(self, response: http.client.HTTPResponse) -> None:
        if response.headers.get_content_type() == "text/html":
            self.refuse_web_page()
        have = self.received() if response.status == 206 else 0  # otherwise the whole file comes again
        length = response.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        if response.status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            self.discard()
            raise _InterruptedTransfer(f"asked for byte {have} on, got {response.headers.get('Content-Range')}")
        free = shutil.disk_usage(self.partial.parent).free
        if total is not None and free < total - have:
            raise DownloadError(f"{self.url} needs {total - have:,} bytes, {self.partial.parent} has {free:,} free")
        etag = response.headers.get("ETag", "")
        if etag.startswith('"'):  # a weak one (W/"...") cannot guard a resumed transfer
            self.etag_file.write_text(etag, encoding="utf-8")
        bar = tqdm(
            total=total,
            initial=have,
            unit="B",
            unit_scale=True,
            desc=self.path.name,
            disable=None if self.progress else True,  # None: only on a terminal
        )
        with self.partial.open("ab" if have else "wb") as file, bar:
            while chunk := _read(response):
                file.write(chunk)
                bar.update(len(chunk))
        if total is not None and self.received() != total:
            raise _InterruptedTransfer(f"{self.received():,} of {total:,} bytes arrived")

    def explain_status(self, error: urllib.error.HTTPError) -> None:
        """Return if the answer means that nothing is missing, otherwise raise what it means."""
        if error.code == 416:
            if error.headers.get("Content-Range", "") == f"bytes */{self.received()}":
                return
            self.discard()
            raise _InterruptedTransfer("the partial file did not fit the server's") from error
        if error.code in TEMPORARY_STATUS:
            raise _InterruptedTransfer(f"status {error.code} {error.reason}") from error
        meaning = {401: "needs a login", 403: "denies access", 404: "does not exist", 410: "does not exist any more"}
        raise DownloadError(
            f"{self.url} {meaning.get(error.code, 'cannot be fetched')} (status {error.code} {error.reason}); "
            "check the address, or set GLIP_MIRROR to use another server"
        ) from error

    def check(self, sha256: str | None) -> None:
        """Raise, and forget what was received, unless the file is plausible and has the expected checksum."""
        with self.partial.open("rb") as file:
            if looks_like_html(file.read(512)):
                self.refuse_web_page()
        if sha256 is None:
            return
        digest = sha256_of(self.partial)
        if not digest.startswith(sha256.lower()):
            self.discard()
            raise DownloadError(
                f"{self.url} has the wrong checksum: expected sha256 {sha256}, got {digest}. It was removed; the file "
                "on the server has changed, or the transfer damaged it"
            )

    def refuse_web_page(self) -> NoReturn:
        self.discard()
        raise DownloadError(
            f"{self.url} answered with a web page instead of the file: it may need a login, or be the page about the "
            "file (on Hugging Face the address of a file has /resolve/ where its page has /blob/)"
        )


def _read(response: http.client.HTTPResponse) -> bytes:
    """The next piece; empty at the end."""
    try:
        return response.read(CHUNK_BYTES)
    except (http.client.HTTPException, OSError) as error:  # of the network, not of the disk
        raise _InterruptedTransfer(f"{type(error).__name__}: {error}") from error


def sha256_of(path: Path) -> str:
    """Checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
