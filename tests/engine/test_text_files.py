"""Vocabulary and sizes of a text encoder: beside the configuration, in caches, or downloaded without the weights."""

import http.server
import threading

import pytest

from maskrcnn_benchmark.config import default_config
from maskrcnn_benchmark.engine.text_files import use_local_text_files
from maskrcnn_benchmark.utils.download import DownloadError, hub_attempts

HUB_NAME = "bert-base-uncased"


def configured(name: str):
    cfg = default_config()
    cfg.merge_from_list(["MODEL.LANGUAGE_BACKBONE.MODEL_TYPE", name, "MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE", name])
    return cfg


def resolved(name: str, folder=None) -> set[str]:
    """What the two names of a configuration become."""
    cfg = configured(name)
    use_local_text_files(cfg, folder)
    return {cfg.MODEL.LANGUAGE_BACKBONE.MODEL_TYPE, cfg.MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE}


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """No network, empty caches, an empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("GLIP_OFFLINE", "1")
    for name in ("GLIP_MIRROR", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_beside_the_configuration_first(tmp_path):
    for folder in (tmp_path / "text", tmp_path / "configs" / "text"):
        folder.mkdir(parents=True)
    assert resolved("text", tmp_path / "configs") == {str(tmp_path / "configs" / "text")}
    assert resolved("text") == {str(tmp_path / "text")}


@pytest.mark.parametrize("name", ["clip", "someone/some-bert", "no name/of a hub/at all", ""])
def test_other_names_stay(name):
    assert resolved(name) == {name}


@pytest.mark.parametrize("owner", ["models--bert-base-uncased", "models--google-bert--bert-base-uncased"])
@pytest.mark.parametrize("complete", [True, False])
def test_the_cache_of_the_hub(tmp_path, owner, complete):
    (tmp_path / "hub" / owner / "refs").mkdir(parents=True)
    (tmp_path / "hub" / owner / "refs" / "main").write_text("1a2b")
    folder = tmp_path / "hub" / owner / "snapshots" / "1a2b"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    if complete:
        (folder / "tokenizer.json").write_text("{}")
        assert resolved(HUB_NAME) == {str(folder)}
    else:
        with pytest.raises(DownloadError, match="offline mode is on"):
            resolved(HUB_NAME)


def test_only_the_small_files_are_downloaded(tmp_path, monkeypatch):
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *args):
            pass

    monkeypatch.setattr("maskrcnn_benchmark.utils.download._Transfer.check", lambda self, sha256: None)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("GLIP_OFFLINE", "0")
    monkeypatch.setenv("GLIP_MIRROR", f"http://127.0.0.1:{server.server_port}")
    try:
        assert resolved(HUB_NAME) == {str(tmp_path / "cache" / HUB_NAME)}
    finally:
        server.shutdown()
        server.server_close()
    assert asked == [f"/{HUB_NAME}/config.json", f"/{HUB_NAME}/vocab.txt"]


def test_the_caches_of_the_libraries_come_before_the_network(monkeypatch):
    assert hub_attempts() == (True,)
    monkeypatch.setenv("GLIP_OFFLINE", "0")
    assert hub_attempts() == (True, False)
