"""``glip demo`` around a fake network."""

import pytest
from fake_detector import fake_detector
from PIL import Image

from maskrcnn_benchmark.cli import console, demo
from maskrcnn_benchmark.cli.main import main


@pytest.fixture(autouse=True)
def detector(monkeypatch):
    made = fake_detector()
    monkeypatch.setattr(demo, "load_detector", lambda args: made)
    return made


def test_demo_writes_labelled_pictures_and_says_where(tmp_path, capsys, detector):
    out = tmp_path / "demo"
    assert main(["demo", "--num", "2", "--seed", "7", "--output", str(out)]) == console.OK
    shown = capsys.readouterr().out
    assert str(out / "classes") in shown and str(out / "caption") in shown and "--seed 7" in shown
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*.*"))
    assert written == [
        "caption/predictions.json", "caption/scene_1.png",
        "classes/predictions.json", "classes/scene_1.png", "classes/scene_2.png",
        "scenes/scene_1.png", "scenes/scene_2.png",
    ]  # fmt: skip
    assert Image.open(out / "caption" / "scene_1.png").tobytes() != Image.open(out / "scenes" / "scene_1.png").tobytes()
    assert len(detector.model.encoded_texts) == 2


def test_output_that_is_a_file(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["demo", "--output", str(tmp_path / "file")]) == console.BAD_INPUT
    assert "is a file" in capsys.readouterr().err
