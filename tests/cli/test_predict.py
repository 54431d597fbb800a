"""``glip predict`` around a fake network: what it writes, prints and returns."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from fake_detector import fake_detector
from PIL import Image
from pycocotools.coco import COCO

from maskrcnn_benchmark.cli import console, predict
from maskrcnn_benchmark.cli.main import main
from maskrcnn_benchmark.cli.results import TABLE_ROWS, output_names
from maskrcnn_benchmark.structures.bounding_box import BoxList


@pytest.fixture(autouse=True)
def detector(monkeypatch):
    made = fake_detector()
    monkeypatch.setattr(predict, "load_detector", lambda args: made)
    return made


def picture(path, size=(80, 60)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "gray").save(path)
    return path


def test_one_picture(tmp_path, capsys):
    image, out = picture(tmp_path / "street.jpg"), tmp_path / "out" / "deep"
    code = main(["predict", "--image", str(image), "--text", "person. traffic light", "--output", str(out)])
    assert code == console.OK
    assert sorted(path.name for path in out.iterdir()) == ["predictions.json", "street.png"]
    drawn = np.asarray(Image.open(out / "street.png"))
    assert drawn.shape == (60, 80, 3) and (drawn != np.asarray(Image.open(image))).any()
    shown, errors = capsys.readouterr()
    assert errors == ""
    for text in ("traffic light", "0.80", "person", "0.90", "2 boxes on 1 picture", str(out / "street.png")):
        assert text in shown

    records = json.loads((out / "predictions.json").read_text())
    assert records["images"] == [{"id": 1, "file_name": str(image), "width": 80, "height": 60}]
    assert records["categories"] == [{"id": 1, "name": "person"}, {"id": 2, "name": "traffic light"}]
    assert [(a["category_id"], a["phrase"]) for a in records["annotations"]] == [(1, "person"), (2, "traffic light")]
    assert records["info"] == {
        "model": "fake", "prompt": ["person. traffic light"], "threshold": 0.5, "one_label": False, "top": None
    }  # fmt: skip


def test_the_json_is_coco_and_its_annotations_a_result_list(tmp_path):
    image = picture(tmp_path / "a.png")
    main(["predict", "--image", str(image), "--text", "cat. dog", "--output", str(tmp_path / "out")])
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "out" / "predictions.json"))
        loaded = coco.loadRes(json.loads((tmp_path / "out" / "predictions.json").read_text())["annotations"])
    assert len(loaded.getAnnIds()) == 2
    x, y, width, height = coco.anns[1]["bbox"]
    assert width * height == pytest.approx(coco.anns[1]["area"], rel=0.01)
    assert 0 <= x < 80 and 0 <= y < 60


def test_classes_are_not_split(tmp_path):
    image, out = picture(tmp_path / "a.png"), tmp_path / "out"
    words = ["predict", "--image", str(image), "--output", str(out), "--classes", "St. Bernard", "cat, red"]
    assert main(words) == console.OK
    record = json.loads((out / "predictions.json").read_text())
    assert record["info"]["prompt"] == ["St. Bernard. cat, red"]
    assert [category["name"] for category in record["categories"]] == ["St. Bernard", "cat, red"]


def test_classes_without_a_word(tmp_path, capsys):
    words = ["predict", "--image", str(picture(tmp_path / "a.png")), "--output", str(tmp_path / "out")]
    assert main([*words, "--classes", "", "..."]) == console.BAD_INPUT
    assert "--classes ['', '...'] names no class" in capsys.readouterr().err


def test_caption(tmp_path, capsys):
    image = picture(tmp_path / "a.png")
    code = main(["predict", "--image", str(image), "--caption", "A man. On a horse", "--output", str(tmp_path / "out")])
    assert code == console.OK and "a horse" in capsys.readouterr().out


def test_folder_with_bad_pictures_reports_them_and_goes_on(tmp_path, capsys):
    folder = tmp_path / "photos"
    for name in ("a.png", "b.png", "c.png"):
        picture(folder / name)
    (folder / "empty.png").touch()
    whole = picture(folder / "cut.jpg", (400, 300)).read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    code = main(
        ["predict", "--image", str(folder), "--text", "dog", "--output", str(tmp_path / "out"), "--batch-size", "2"]
    )
    assert code == console.PARTIAL_FAILURE
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a.png", "b.png", "c.png", "predictions.json"]
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and all(line.startswith("glip: error: ") for line in errors)
    assert "empty.png" in errors[0] and "cut.jpg" in errors[1]


def test_how_many_boxes_are_shown(tmp_path, monkeypatch, capsys, detector):
    def boxes(size, label_to_tokens):
        found = BoxList(torch.tensor([[5.0, 5, 40, 40], [5, 6, 40, 40], [60, 5, 90, 40]]), (size[1], size[0]))
        found.add_field("labels", torch.tensor([1, 2, 1]))
        found.add_field("scores", torch.tensor([0.9, 0.8, 0.7]))
        return found

    monkeypatch.setattr(detector.model, "_found", boxes)
    command = ["predict", "--image", str(picture(tmp_path / "a.png")), "--text", "cat. dog", "--output", str(tmp_path)]
    for flags, shown in (
        ([], "3 boxes on 1 picture: 2 cat, 1 dog"),
        (["--one-label"], "2 boxes on 1 picture: 2 cat"),
        (["--top", "1"], "2 boxes on 1 picture: 1 cat, 1 dog"),
        (["--one-label", "--top", "1"], "1 box on 1 picture: 1 cat"),
    ):
        assert main([*command, *flags]) == console.OK
        assert shown in capsys.readouterr().out


def test_nothing_found(tmp_path, capsys):
    image = picture(tmp_path / "a.png")
    code = main(
        ["predict", "--image", str(image), "--text", "dog", "--threshold", "1", "--output", str(tmp_path / "o")]
    )
    assert code == console.OK
    assert "0 boxes on 1 picture with a score above 1" in capsys.readouterr().out
    assert json.loads((tmp_path / "o" / "predictions.json").read_text())["annotations"] == []


def test_many_boxes_shorten_the_table(tmp_path, capsys):
    image = picture(tmp_path / "a.png")
    text = ". ".join(f"strange{i}" for i in range(TABLE_ROWS + 7))
    command = ["predict", "--image", str(image), "--text", text, "--output", str(tmp_path / "out")]
    main([*command, "--threshold", "0.3"])
    assert "and 7 more" in capsys.readouterr().out


def test_names_of_the_written_pictures(tmp_path):
    out = tmp_path / "out"
    inputs = [
        tmp_path / "a" / "x.jpg",
        tmp_path / "b" / "x.jpg",
        tmp_path / "b" / "x.png",
        out / "y.png",
        out / "x_2.png",
    ]
    names = [path.name for path in output_names(inputs, out)]
    assert names == ["x.png", "x_3.png", "x_4.png", "y_2.png", "x_2_2.png"]


def test_pictures_in_the_output_folder_survive(tmp_path):
    image = picture(tmp_path / "a.png")
    before = image.read_bytes()
    main(["predict", "--image", str(image), "--text", "dog", "--output", str(tmp_path)])
    assert image.read_bytes() == before and (tmp_path / "a_2.png").exists()
