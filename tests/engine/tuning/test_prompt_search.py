"""Words tried for classes: what is asked, how it is ranked, and that pictures are encoded once."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from fake_detector import fake_detector
from tuning_data import change, write_split

from maskrcnn_benchmark.cli import prompt as command
from maskrcnn_benchmark.cli.main import main
from maskrcnn_benchmark.engine.tuning.prompt_search import read_candidates
from maskrcnn_benchmark.structures.bounding_box import BoxList

NAMES = ["cup", "dog"]


@pytest.fixture
def data(tmp_path):
    return write_split(tmp_path, "photos", 4)


class Seer:
    """A network that sees every box, but a dog only under the word bird."""

    def __init__(self, network, data: Path):
        content = json.loads(data.read_text())
        self.boxes = {
            i["id"]: [a for a in content["annotations"] if a["image_id"] == i["id"]] for i in content["images"]
        }
        self.network, self.encoded, self.captions = network, 0, []
        self.tokenizer = network.tokenizer
        self.labels = {1: 1, 2: 2}  # by category

    def encode_image(self, images, text=None):
        self.encoded += 1
        return self.encoded  # pictures come in the order of their ids

    def encode_text(self, captions):
        self.captions += captions
        return captions

    def detect(self, features, text, maps):
        shown = [a for a in self.boxes[features] if a["category_id"] == 1 or "bird" in text[0]]
        corners = [[x, y, x + w - 1, y + h - 1] for x, y, w, h in (a["bbox"] for a in shown)]
        found = BoxList(torch.tensor(corners, dtype=torch.float32).reshape(-1, 4), (96, 64), mode="xyxy")
        found.add_field("labels", torch.tensor([self.labels[a["category_id"]] for a in shown], dtype=torch.int64))
        found.add_field("scores", torch.full((len(shown),), 0.9))
        return [found]


@pytest.fixture
def seer(data, monkeypatch):
    detector = fake_detector()
    detector.model = Seer(detector.model, data)
    monkeypatch.setattr(command, "load_detector", lambda args: detector)
    return detector.model


def run(data, tmp_path, candidates, *more):
    text = candidates if isinstance(candidates, str) else yaml.safe_dump(candidates)
    (tmp_path / "words.yaml").write_text(text, errors="surrogateescape")
    arguments = ["prompt", "--data", str(data), "--images", str(data.with_suffix(""))]
    return main([*arguments, "--candidates", str(tmp_path / "words.yaml"), *more])


def test_the_best_words_come_first(data, tmp_path, seer, capsys):
    words = {"dog": ["horse", {"suffix": " or bird"}], "cup": ["cup", {"prefix": "red "}]}
    assert run(data, tmp_path, words, "--output", str(tmp_path / "best.yaml")) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "0." in line or "1." in line]
    dogs = [row for row in rows if row.startswith("| dog")]
    assert "[dog] or bird" in dogs[0] and dogs[0].count("1.0000") == 3 and len(dogs) == 3
    assert all("0.0000" in row and "0.5000" in row for row in dogs[1:])
    assert seer.encoded == 4  # each picture once
    assert seer.captions == ["cup. dog", "red cup. dog", "cup. dog", "cup. horse", "cup. dog or bird"]
    best = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert best[1] == {"prefix": "", "name": "dog", "suffix": " or bird"} and best[0]["name"] == "cup"


def test_categories_out_of_order(data, tmp_path, seer, capsys):
    """Figures stay with their classes, and the written words in the order of the file, which labels follow."""
    change(data, categories=lambda c: (c.reverse(), c.append({"id": 0, "name": "things"})))
    seer.labels = {2: 1, 1: 2}
    assert run(data, tmp_path, {"dog": [{"suffix": " or bird"}]}, "--output", str(tmp_path / "best.yaml")) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| dog")]
    assert "[dog] or bird" in rows[0] and rows[0].count("1.0000") == 3 and rows[1].count("0.0000") == 2
    assert [phrase["name"] for phrase in yaml.safe_load((tmp_path / "best.yaml").read_text())] == ["dog", "cup"]


def test_a_class_that_no_picture_shows(data, tmp_path, seer, capsys, caplog):
    change(data, annotations=lambda a: a.__setitem__(slice(None), [one for one in a if one["category_id"] == 1]))
    assert run(data, tmp_path, {"dog": ["bird"], "cup": ["mug"]}) == 0
    assert "is of 'dog', whose words are not tried" in caplog.text and "| dog" not in capsys.readouterr().out
    assert run(data, tmp_path, {"dog": ["bird"]}) == 2
    assert "no box of the 3 pictures is of 'dog': give candidates for classes that they show" in capsys.readouterr().err


def test_pictures_of_crowds_alone(data, tmp_path, seer, capsys):
    change(data, annotations=lambda a: [one.update(iscrowd=1) for one in a if one["image_id"] == 1])
    assert run(data, tmp_path, {"cup": ["mug"]}, "--max-pictures", "1") == 2
    assert "no box of the 1 pictures shows a single thing" in capsys.readouterr().err


def test_entries_of_one_class_and_empty_parts(tmp_path):
    path = tmp_path / "words.yaml"
    path.write_text("cup:\n- {prefix: , name: mug}\nCup:\n- ' beaker '\n- {prefix: a, name: ' mug ', suffix: here}\n")
    found = read_candidates(path, NAMES)["cup"]
    assert found[:2] == [{"prefix": "", "name": name, "suffix": ""} for name in ("mug", "beaker")]
    assert found[2] == {"prefix": "a ", "name": "mug", "suffix": " here"}  # blanks belong to no name


def test_where_nothing_can_be_written(data, tmp_path, seer, capsys):
    """Told before any picture is encoded."""
    assert run(data, tmp_path, {"dog": ["bird"]}, "--output", str(tmp_path)) == 2
    assert "is a folder, not a file" in capsys.readouterr().err and not seer.encoded
    assert run(data, tmp_path, {"dog": ["bird"]}, "--output", str(data / "best.yaml")) == 2
    assert "--output" in capsys.readouterr().err and not seer.encoded


def test_fewer_pictures(data, tmp_path, seer, capsys):
    assert run(data, tmp_path, {"cup": ["horse"]}, "--max-pictures", "2") == 0
    assert seer.encoded == 2 and "2 pictures, 2 candidates of 1 classes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"bird": ["a bird"]}, "no class 'bird', only cup, dog"),
        ({"cup": "horse"}, "must be a list"),
        ({"cup": [{"name": "cup", "size": 3}]}, "neither a text nor prefix"),
        ({"cup": [{"name": ["cup"]}]}, "has parts that are no text"),
        ({"cup": [" "]}, "a name without a word"),
        ("[1, 2]", "must be a mapping"),
        ("{", "are no YAML"),
        ("cup: [\udcff]", "words.yaml' are no YAML"),
    ],
)
def test_bad_candidates(data, tmp_path, capsys, content, message):
    assert run(data, tmp_path, content) == 2
    assert message in capsys.readouterr().err


def test_missing_files(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="nothing.yaml"):
        read_candidates(tmp_path / "nothing.yaml", NAMES)
    assert main(["prompt", "--data", "no.json", "--images", str(tmp_path), "--candidates", "w.yaml"]) == 2
    assert "--data 'no.json' is not there" in capsys.readouterr().err
