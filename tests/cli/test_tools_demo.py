"""tools/demo.py around a fake network: three forms of text, JSON and picture, and its errors."""

import importlib.util
import json
from pathlib import Path

import pytest
from fake_detector import fake_detector
from PIL import Image

from maskrcnn_benchmark.cli import console

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "demo.py"


@pytest.fixture
def demo(monkeypatch):
    spec = importlib.util.spec_from_file_location("tools_demo", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "load_detector", lambda args: fake_detector())
    return module


@pytest.fixture
def image(tmp_path):
    Image.new("RGB", (64, 48), "gray").save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def entities(tmp_path, content: str) -> str:
    (tmp_path / "entities.json").write_text(content)
    return str(tmp_path / "entities.json")


def test_categories_to_standard_output(demo, image, capsys):
    assert demo.main(demo.parse_args(["--image", image, "--categories", "person", "traffic light"])) == console.OK
    records = json.loads(capsys.readouterr().out)
    assert [record["phrase"] for record in records] == ["person", "traffic light"]
    assert records[1]["spans"] == [[8, 21]] and len(records[0]["box"]) == 4


def test_caption_and_entities_to_files(demo, image, tmp_path):
    text = '{"caption": "a red dog", "entities": [{"span": "dog"}, {"char_bounds": [2, 5]}]}'
    for words, phrases in (
        (["--caption", "a red dog"], ["a red dog"]),
        (["--entities-json", entities(tmp_path, text)], ["dog", "red"]),
    ):
        out = ["--output", str(tmp_path / "found.png"), "--json", str(tmp_path / "found.json")]
        assert demo.main(demo.parse_args(["--image", image, *words, *out])) == console.OK
        assert [record["phrase"] for record in json.loads((tmp_path / "found.json").read_text())] == phrases
        assert Image.open(tmp_path / "found.png").size == (64, 48)


@pytest.mark.parametrize("content", ["{", "[]", '{"caption": "a dog"}', '{"caption": "a", "entities": [{}]}'])
def test_bad_entities(demo, image, tmp_path, capsys, content):
    argv = ["--image", image, "--entities-json", entities(tmp_path, content)]
    assert console.report_errors(lambda: demo.main(demo.parse_args(argv))) == console.BAD_INPUT
    shown = capsys.readouterr().err
    assert "entities.json" in shown and shown.count("\n") == 1
