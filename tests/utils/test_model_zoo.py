"""Downloads by name from a server on this machine that breaks off, lies and refuses."""

import hashlib
import http.client
import http.server
import multiprocessing
import random
import threading
from pathlib import Path

import pytest

from maskrcnn_benchmark.engine.model_files import find_model
from maskrcnn_benchmark.utils import download as download_module
from maskrcnn_benchmark.utils.download import DownloadError, download
from maskrcnn_benchmark.utils.model_zoo import PUBLISHED, cache_dir, cache_url, resolve_weights

CONTENT = random.Random(0).randbytes(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``server.files``; ``server.faults`` maps a path to the faults of its next answers, in order."""

    def do_GET(self):
        server = self.server
        self.path = self.path.partition("?")[0]
        server.requests.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
        fault = server.faults[self.path].pop(0) if server.faults.get(self.path) else None
        if isinstance(fault, int):
            self.send_error(fault)
            return
        if fault == "redirect":
            self.send_response(302)
            self.send_header("Location", "/storage")
            self.send_header("X-Linked-ETag", f'"{server.linked_etag}"')
            self.end_headers()
            return
        if self.path not in server.files:
            self.send_error(404)
            return
        self.send_file(server.files[self.path], fault)

    def send_file(self, body, fault):
        etag = f'"{hashlib.sha256(body).hexdigest()[:8]}"'
        start = 0
        requested = self.headers.get("Range")
        if requested and fault != "no ranges" and self.headers.get("If-Range", etag) == etag:
            start = int(requested.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.end_headers()
                return
            self.send_response(206)
            first = start + 1 if fault == "wrong part" else start
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        part = body[start:]
        self.send_header("Content-Type", "text/html" if fault == "html" else "application/octet-stream")
        if fault != "no length":
            self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", etag)
        self.end_headers()
        self.wfile.write(part[: self.server.cut] if fault == "cut" else part)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files = {"/w.pth": CONTENT, "/storage": CONTENT}
    server.faults = {}
    server.requests = []
    server.cut = 100_000
    server.linked_etag = DIGEST
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("GLIP_CACHE", str(tmp_path / "cache"))
    for name in ("GLIP_OFFLINE", "HF_HUB_OFFLINE", "GLIP_MIRROR", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "folder" / "w.pth"


def fetch(server, target, **options):
    return download(f"{server.url}/w.pth", target, retry_wait_s=0, **options)


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize("fault", [None, "no length"])
def test_plain_download_happens_once(server, target, fault):
    server.faults["/w.pth"] = [fault]
    assert fetch(server, target, sha256=DIGEST) == target
    assert target.read_bytes() == CONTENT
    assert visible(target.parent) == ["w.pth"]
    fetch(server, target)
    assert len(server.requests) == 1


def test_resumes_within_one_call(server, target):
    server.faults["/w.pth"] = ["cut", "cut"]
    fetch(server, target, sha256=DIGEST)
    assert target.read_bytes() == CONTENT
    assert [request[1] for request in server.requests] == [None, "bytes=100000-", "bytes=200000-"]


def test_resumes_in_a_later_call(server, target):
    server.faults["/w.pth"] = ["cut", 503, 503, 503, 503]
    with pytest.raises(DownloadError, match=r"keeps breaking off.*100,000 bytes are kept in .*w\.pth\.part"):
        fetch(server, target)
    assert not target.exists()
    fetch(server, target, sha256=DIGEST)
    assert target.read_bytes() == CONTENT
    assert server.requests[-1][1] == "bytes=100000-"


@pytest.mark.parametrize("fault", ["no ranges", "wrong part"])
def test_servers_that_cannot_resume_send_the_whole_file(server, target, fault):
    server.faults["/w.pth"] = ["cut", fault]
    fetch(server, target)
    assert target.read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, target):
    server.faults["/w.pth"] = ["cut", 503, 503, 503, 503]
    with pytest.raises(DownloadError):
        fetch(server, target)
    server.files["/w.pth"] = CONTENT[::-1]
    fetch(server, target)
    assert target.read_bytes() == CONTENT[::-1]
    assert server.requests[-1][2] is not None


@pytest.mark.parametrize(("received", "requests"), [(CONTENT, 1), (CONTENT + b"more", 2)])
def test_a_partial_file_that_is_complete_or_too_long(server, target, received, requests):
    target.parent.mkdir()
    target.with_name("w.pth.part").write_bytes(received)
    fetch(server, target)
    assert target.read_bytes() == CONTENT
    assert len(server.requests) == requests


def test_a_connection_that_never_yields_anything(server, target):
    server.cut = 0
    server.faults["/w.pth"] = ["cut"] * 9
    with pytest.raises(DownloadError, match="keeps breaking off"):
        fetch(server, target)
    assert len(server.requests) == download_module.MAX_IDLE_ATTEMPTS


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (404, r"/w\.pth does not exist \(status 404"),
        (403, "denies access"),
        (418, "cannot be fetched .status 418"),
        ("html", "answered with a web page instead of the file"),
    ],
)
def test_refusals_are_reported_at_once(server, target, fault, message):
    server.faults["/w.pth"] = [fault]
    with pytest.raises(DownloadError, match=message):
        fetch(server, target)
    assert len(server.requests) == 1
    assert visible(target.parent) == []


def test_web_page_that_claims_to_be_a_file(server, target):
    server.files["/w.pth"] = b"<!DOCTYPE html><html>not found</html>"
    with pytest.raises(DownloadError, match="web page"):
        fetch(server, target)
    assert visible(target.parent) == []


def test_wrong_checksum(server, target):
    with pytest.raises(DownloadError, match=f"wrong checksum: expected sha256 123abc, got {DIGEST}"):
        fetch(server, target, sha256="123abc")
    assert visible(target.parent) == []


@pytest.mark.parametrize("good", [True, False])
def test_checksum_announced_on_a_redirect(server, target, good):
    server.faults["/w.pth"] = ["redirect"]
    server.linked_etag = DIGEST if good else "0" * 64
    if good:
        fetch(server, target)
        assert target.read_bytes() == CONTENT
    else:
        with pytest.raises(DownloadError, match="wrong checksum"):
            fetch(server, target)


def test_full_disk(server, target, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DownloadError, match="needs 300,000 bytes, .* has 1,000 free"):
        fetch(server, target)


def test_a_network_that_fails_while_reading(server, target, monkeypatch):
    read = http.client.HTTPResponse.read
    faults = [OSError(113, "No route to host"), http.client.IncompleteRead(b"")]

    def fail_twice(self, amount=None):
        if faults:
            raise faults.pop()
        return read(self, amount)

    monkeypatch.setattr(http.client.HTTPResponse, "read", fail_twice)
    assert fetch(server, target).read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_unreachable_server(server, target):
    url = f"{server.url}/w.pth"
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError, match=f"{url} cannot be reached"):
        download(url, target, retry_wait_s=0)


def test_only_http_addresses(target):
    with pytest.raises(ValueError, match="file:///etc/hosts"):
        download("file:///etc/hosts", target)


@pytest.mark.parametrize("variable", ["GLIP_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_mode(server, target, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(DownloadError, match=r"w\.pth does not exist and offline mode is on"):
        fetch(server, target)
    assert server.requests == []
    target.parent.mkdir()
    target.write_bytes(b"here")
    assert fetch(server, target).read_bytes() == b"here"
    monkeypatch.setenv(variable, "0")
    target.unlink()
    assert fetch(server, target).read_bytes() == CONTENT


def test_two_processes_fetch_once(server, target):
    server.files["/w.pth"] = CONTENT * 20
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fetch, args=(server, target)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert target.read_bytes() == CONTENT * 20
    assert len(server.requests) == 1


def test_published_names_and_addresses(server, monkeypatch, tmp_path):
    assert {
        *("glip_a_tiny_o365", "glip_tiny_model_o365", "glip_tiny_model_o365_goldg"),
        *("glip_tiny_model_o365_goldg_cc_sbu", "glip_large_model", "bert-base-uncased"),
        *("swin_tiny_patch4_window7_224", "swin_large_patch4_window12_384_22k"),
    } == set(PUBLISHED)
    monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
    server.files["/GLIPModel/GLIP/resolve/main/glip_large_model.pth"] = CONTENT
    for name in ("glip_large_model", "glip_large_model.pth"):
        path = resolve_weights(name)
        assert path == tmp_path / "cache" / "glip_large_model.pth"
        assert path.read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_mirror_with_a_folder_of_files(server, monkeypatch, tmp_path):
    monkeypatch.setenv("GLIP_MIRROR", f"{server.url}/weights/")
    names = [file.filename for file in PUBLISHED["bert-base-uncased"]]
    monkeypatch.setitem(
        PUBLISHED, "bert-base-uncased", tuple(f._replace(sha256=None) for f in PUBLISHED["bert-base-uncased"])
    )
    for name in names:
        server.files[f"/weights/bert-base-uncased/{name}"] = name.encode()
    folder = resolve_weights("bert-base-uncased")
    assert folder == tmp_path / "cache" / "bert-base-uncased"
    assert {name: (folder / name).read_text() for name in names} == {name: name for name in names}


def test_published_checksum_is_checked(server, monkeypatch):
    monkeypatch.setenv("GLIP_MIRROR", server.url)
    for file in PUBLISHED["bert-base-uncased"]:
        server.files[f"/bert-base-uncased/{file.filename}"] = b"something else"
    with pytest.raises(DownloadError, match=r"vocab\.txt has the wrong checksum: expected sha256 07eced"):
        resolve_weights("bert-base-uncased")


def test_existing_paths_and_addresses(server, tmp_path):
    file = tmp_path / "own.pth"
    file.write_bytes(b"x")
    assert resolve_weights(file) == file
    assert resolve_weights(str(tmp_path)) == tmp_path
    assert resolve_weights(f"{server.url}/w.pth?download=true").read_bytes() == CONTENT
    assert (tmp_path / "cache" / "w.pth").is_file()


def test_catalog_names(tmp_path):
    weights = cache_dir() / "glip_large_model.pth"
    weights.parent.mkdir()
    weights.write_bytes(b"x")
    assert resolve_weights("catalog://GLIP-L") == weights
    with pytest.raises(ValueError, match="unknown weights catalog://GLIP-XL; known: .*GLIP-L"):
        resolve_weights("catalog://GLIP-XL")


def test_weights_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_weights("glip_nano") == find_model("glip_nano").weights()


def test_unknown_names():
    with pytest.raises(FileNotFoundError, match="neither an existing file nor .*Did you mean 'glip_large_model'"):
        resolve_weights("glip_larg_model")
    with pytest.raises(FileNotFoundError, match="the name alone, 'glip_large_model', downloads it"):
        resolve_weights("MODEL/glip_large_model.pth")


def test_cache_dir(monkeypatch):
    monkeypatch.setenv("GLIP_CACHE", "~/weights")
    assert cache_dir() == Path.home() / "weights"
    monkeypatch.delenv("GLIP_CACHE")
    assert cache_dir() == Path.home() / ".cache" / "glip"


def test_cache_url_names_and_checks(server, tmp_path):
    good, bad = f"/net-{DIGEST[:8]}.pth", "/net-00000000.pth"
    server.files |= {good: CONTENT, bad: CONTENT, "/zoo/12/model_final.pkl": CONTENT}
    path = cache_url(server.url + good, str(tmp_path / "model"))
    assert path == str(tmp_path / "model" / good[1:])
    assert Path(path).read_bytes() == CONTENT
    with pytest.raises(DownloadError, match="wrong checksum"):
        cache_url(server.url + bad, str(tmp_path / "model"))
    assert Path(cache_url(f"{server.url}/zoo/12/model_final.pkl", tmp_path)).name == "zoo_12_model_final.pkl"
    with pytest.raises(ValueError, match="names no file"):
        cache_url(server.url + "/", tmp_path)
