"""``glip demo`` around a fake network."""

import json

import pytest
from fake_detector import fake_detector
from PIL import Image

from maskrcnn_benchmark.cli import console, demo
from maskrcnn_benchmark.cli.main import main
from maskrcnn_benchmark.scenes import generate_scene
from maskrcnn_benchmark.scenes.palette import pair_name


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
    (grounded,) = (out / "caption").glob("*.png")
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*.*"))
    assert written == [
        "caption/predictions.json", f"caption/{grounded.name}",
        "classes/predictions.json", "classes/scene_1.png", "classes/scene_2.png",
        "scenes/scene_1.png", "scenes/scene_2.png",
    ]  # fmt: skip
    assert Image.open(grounded).tobytes() != Image.open(out / "scenes" / grounded.name).tobytes()


def test_every_scene_is_searched_for_its_own_pairs(tmp_path, detector):
    assert main(["demo", "--num", "4", "--seed", "7", "--output", str(tmp_path)]) == console.OK
    scenes = [generate_scene(7, split, index)[1] for index, split in enumerate(["val", "val", "novel", "novel"])]
    names = [[pair_name(pair) for pair in scene.pairs()] for scene in scenes]
    assert [". ".join(pairs) for pairs in names] == [captions[0] for captions in detector.model.encoded_texts[:4]]
    content = json.loads((tmp_path / "classes" / "predictions.json").read_text())
    numbers = {category["name"]: category["id"] for category in content["categories"]}
    assert len(numbers) == len({name for pairs in names for name in pairs})
    assert all(numbers[record["phrase"]] == record["category_id"] for record in content["annotations"])


def test_the_sentence_is_one_with_relations(tmp_path, capsys, detector):
    assert main(["demo", "--num", "4", "--seed", "7", "--output", str(tmp_path)]) == console.OK
    (caption,) = detector.model.encoded_texts[4]
    scenes = [generate_scene(7, split, index)[1] for index, split in enumerate(["val", "val", "novel", "novel"])]
    relations = {caption.text: len(caption.relations) for scene in scenes for caption in scene.captions}
    assert relations[caption] == max(relations.values()) > 0
    assert f'for the phrases of "{caption}"' in capsys.readouterr().out
    phrases = [
        record["phrase"] for record in json.loads((tmp_path / "caption/predictions.json").read_text())["annotations"]
    ]
    assert len(phrases) == len(set(phrases)) > 0, "one box for each phrase"


def test_output_that_is_a_file(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["demo", "--output", str(tmp_path / "file")]) == console.BAD_INPUT
    assert "is a file" in capsys.readouterr().err
