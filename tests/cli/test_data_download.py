"""``glip data download`` from a server on this machine that breaks off, lies and refuses."""

import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from maskrcnn_benchmark.cli import console
from maskrcnn_benchmark.cli.main import main
from maskrcnn_benchmark.config import public_data
from maskrcnn_benchmark.config.paths_catalog import DATASETS
from maskrcnn_benchmark.config.public_data import GLIP_FILES, ODINW_13, PUBLIC_SETS, PublicFile, PublicSet
from maskrcnn_benchmark.data import fetch as fetch_module
from maskrcnn_benchmark.data.fetch import address, data_folder
from maskrcnn_benchmark.utils import download as download_module
from maskrcnn_benchmark.utils.archives import ArchiveError, unpack

ANNOTATIONS = b'{"images": []}' * 5000


def zip_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def tar_of(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            file.addfile(info)
    return buffer.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends ``server.files``; ``server.broken`` counts the answers still to be cut in the middle."""

    def do_GET(self):
        server, begin = self.server, 0
        server.asked.append((self.path, self.headers.get("Range")))
        content = server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        if requested := self.headers.get("Range"):
            begin = int(requested[len("bytes=") : -1])
        self.send_response(206 if requested else 200)
        if requested:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Type", "text/html" if self.path in server.pages else "application/octet-stream")
        self.send_header("Content-Length", str(len(content) - begin))
        if digest := server.announced.get(self.path):
            self.send_header("X-Linked-ETag", f'"{digest}"')
        self.end_headers()
        end = len(content)
        if server.broken:
            server.broken -= 1
            end = begin + (end - begin) // 2
        self.wfile.write(content[begin:end])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files = {
        "/mdetr_annotations/a.json": ANNOTATIONS,
        "/odinw_35/Aquarium.zip": zip_of({"Aquarium/train/1.jpg": b"picture", "__MACOSX/._1.jpg": b"junk"}),
        "/mdetr_annotations.tar.gz": tar_of({"OpenSource/final_a.json": b"{}", "OpenSource/final_b.json": b"{ }"}),
    }
    server.pages, server.announced, server.asked, server.broken = set(), {}, [], 0
    for name in ("GLIP_OFFLINE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "DATASET", "http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GLIP_MIRROR", f"http://127.0.0.1:{server.server_port}")
    annotations = PublicFile(GLIP_FILES, "mdetr_annotations/a.json", "mdetr_annotations/a.json")
    monkeypatch.setitem(PUBLIC_SETS, "toy_annotations", PublicSet("a toy", (annotations,)))
    monkeypatch.setattr(download_module.time, "sleep", lambda seconds: None)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def download(tmp_path: Path, *words: str) -> int:
    return main(["data", "download", *words, "--root", str(tmp_path / "root")])


def files_below(folder: Path) -> list[str]:
    """The visible files, relative to the folder."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if not path.name.startswith("."))


def test_a_file_is_fetched_once_and_resumed_where_it_broke_off(server, tmp_path, capsys):
    server.broken = 2
    assert download(tmp_path, "toy_annotations") == console.OK
    assert (tmp_path / "root/mdetr_annotations/a.json").read_bytes() == ANNOTATIONS
    assert [request is not None for _, request in server.asked] == [False, True, True]
    assert download(tmp_path, "toy_annotations") == console.OK
    assert len(server.asked) == 3
    assert "mdetr_annotations/a.json" in capsys.readouterr().out


def test_archives_are_unpacked_once(server, tmp_path):
    assert download(tmp_path, "Aquarium", "mdetr_annotations") == console.OK
    expected = ["mdetr_annotations/final_a.json", "mdetr_annotations/final_b.json", "odinw/Aquarium/train/1.jpg"]
    assert files_below(tmp_path / "root") == expected
    assert download(tmp_path, "odinw/Aquarium", "mdetr_annotations") == console.OK
    assert len(server.asked) == 2
    assert files_below(tmp_path / "root") == expected


def test_archives_can_be_kept(server, tmp_path):
    assert download(tmp_path, "Aquarium", "--keep-archives") == console.OK
    assert "odinw/Aquarium.zip" in files_below(tmp_path / "root")


def test_interrupted_unpacking_starts_again(server, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fetch_module, "unpack", fail)
        assert download(tmp_path, "Aquarium") == console.BAD_INPUT
    assert download(tmp_path, "Aquarium") == console.OK
    assert len(server.asked) == 1 and files_below(tmp_path / "root") == ["odinw/Aquarium/train/1.jpg"]


def test_one_missing_file_does_not_stop_the_others(server, tmp_path, capsys):
    assert download(tmp_path, "lvis_minival", "toy_annotations") == console.PARTIAL_FAILURE
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "lvis_v1_minival_inserted_image_name.json does not exist (status 404" in error
    assert files_below(tmp_path / "root") == ["mdetr_annotations/a.json"]


@pytest.mark.parametrize("fault", ["a page by its type", "a page by its content", "checksum", "archive"])
def test_wrong_content_is_refused_and_removed(server, tmp_path, capsys, fault):
    name, said = "toy_annotations", "web page"
    if fault == "a page by its type":
        server.pages.add("/mdetr_annotations/a.json")
    elif fault == "a page by its content":
        server.files["/mdetr_annotations/a.json"] = b"<!DOCTYPE html><html>sign in</html>"
    elif fault == "checksum":
        server.announced["/mdetr_annotations/a.json"], said = hashlib.sha256(b"other").hexdigest(), "wrong checksum"
    else:
        name, said = "Aquarium", "damaged"
        server.files["/odinw_35/Aquarium.zip"] = server.files["/odinw_35/Aquarium.zip"][:100]
    assert download(tmp_path, name) == console.BAD_INPUT
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error
    assert files_below(tmp_path / "root") == []


def test_a_known_checksum_is_checked(server, tmp_path, monkeypatch, capsys):
    (file,) = PUBLIC_SETS["toy_annotations"].files
    for digest, code in ((hashlib.sha256(b"other").hexdigest(), console.BAD_INPUT), (None, console.OK)):
        digest = digest or hashlib.sha256(ANNOTATIONS).hexdigest()
        monkeypatch.setitem(PUBLIC_SETS, "toy_annotations", PublicSet("a toy", (file._replace(sha256=digest),)))
        assert download(tmp_path, "toy_annotations") == code
    assert "wrong checksum" in capsys.readouterr().err


def test_offline_mode_asks_nobody(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GLIP_OFFLINE", "1")
    assert download(tmp_path, "toy_annotations") == console.BAD_INPUT
    assert "offline mode is on" in capsys.readouterr().err and server.asked == []


def test_the_mirror_of_the_command_line_goes_before_the_environment(server, tmp_path, monkeypatch):
    mirror = f"http://127.0.0.1:{server.server_port}/mirror/"
    server.files["/mirror/mdetr_annotations/a.json"] = b"{}"
    assert download(tmp_path, "toy_annotations", "--mirror", mirror) == console.OK
    assert (tmp_path / "root/mdetr_annotations/a.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "NAME"),
        (["lvis_minval"], "did you mean 'lvis_minival'?"),
        (["Raccon"], "did you mean 'odinw/Raccoon'?"),
        (["unheard-of"], "--list"),
        (["lvis_minival", "--mirror", "ftp://x"], "'ftp://x"),
    ],
)
def test_mistakes_are_one_line(server, tmp_path, capsys, words, said):
    assert download(tmp_path, *words) == console.BAD_INPUT
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error


def test_list_shows_every_set(capsys):
    assert main(["data", "download", "--list"]) == console.OK
    shown = capsys.readouterr().out
    assert all(f"\n{name} " in f"\n{shown}" for name in PUBLIC_SETS)


def test_addresses_name_files_not_pages(monkeypatch):
    for name in ("GLIP_MIRROR", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for public_set in PUBLIC_SETS.values():
        for file in public_set.files:
            url = address(file)
            assert url.startswith(("https://", public_data.COCO_FILES)) and "/tree/" not in url and "/blob/" not in url
            assert "huggingface.co" not in url or "/resolve/main/" in url
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example/")
    (file,) = PUBLIC_SETS["lvis_minival"].files
    assert address(file) == f"https://hub.example/GLIPModel/GLIP/resolve/main/{file.path}"
    (file,) = PUBLIC_SETS["coco_2017_val"].files
    assert address(file).startswith(public_data.COCO_FILES)


def test_files_go_where_the_catalogue_looks():
    wanted = {value for entry in DATASETS.values() for value in entry.values() if isinstance(value, str)}
    plain = [file.target for public_set in PUBLIC_SETS.values() for file in public_set.files if not file.is_archive]
    assert set(plain) - wanted == {"coco/annotations/lvis_v1_minival_inserted_image_name.json"}
    assert len(PUBLIC_SETS["odinw_35"].files) == 33 and len(ODINW_13) == 13


def test_the_data_folder_is_the_first_of_the_environment(monkeypatch):
    monkeypatch.setenv("DATASET", "/data:/other")
    assert data_folder() == Path("/data")
    monkeypatch.delenv("DATASET")
    assert data_folder() == Path("DATASET")


@pytest.mark.parametrize("name", ["../evil.json", "/evil.json", "a/../../evil.json", "C:evil.json", "..\\evil.json"])
@pytest.mark.parametrize("make", [zip_of, tar_of])
@pytest.mark.parametrize("flatten", [False, True])
def test_nothing_is_written_outside_the_folder(tmp_path, name, make, flatten):
    archive = tmp_path / "archive"
    archive.write_bytes(make({name: b"evil"}))
    with pytest.raises(ArchiveError, match="outside its folder"):
        unpack(archive, tmp_path / "deep" / "folder", flatten=flatten)
    assert files_below(tmp_path) == ["archive"]


def test_links_are_refused(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_of({}, links={"images": "/etc"}))
    info = zipfile.ZipInfo("images")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(info, "/etc")
    for archive in (tmp_path / "a.tar", tmp_path / "a.zip"):
        with pytest.raises(ArchiveError, match="not a plain file: 'images'"):
            unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("fault", ["cut", "bits", "not an archive", "empty", "twice"])
def test_damaged_archives(tmp_path, fault):
    content, said = tar_of({"a/x.json": bytes(range(256)) * 999, "b/y.json": b"2"}), "damaged"
    if fault == "cut":
        content = content[: len(content) // 2]
    elif fault == "bits":
        content = bytearray(zip_of({"x.json": bytes(range(256)) * 999}))
        content[60] ^= 0xFF
    elif fault == "not an archive":
        content, said = b"hello", "neither a zip nor a tar"
    elif fault == "empty":
        content, said = zip_of({"folder/": b""}), "holds no file"
    else:
        content, said = tar_of({"a/x.json": b"1", "b/x.json": b"2"}), "two files 'x.json'"
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(ArchiveError, match=said):
        unpack(tmp_path / "archive", tmp_path / "out", flatten=True)
