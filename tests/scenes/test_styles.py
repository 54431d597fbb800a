"""Other looks of the same scenes."""

import json

import numpy as np
import pytest
from PIL import Image

from maskrcnn_benchmark.scenes.dataset import write_dataset
from maskrcnn_benchmark.scenes.styles import STYLES, blueprint


def test_a_blueprint_has_lines_where_the_picture_changes():
    picture = Image.new("RGB", (80, 60), (30, 90, 40))
    picture.paste((200, 30, 30), (25, 15, 65, 52))
    drawn = np.asarray(blueprint(picture)).astype(int)
    flat, line, grid = drawn[30, 50], drawn[30, 25], drawn[30, 0]
    assert flat.tolist() == [22, 52, 112] and (line > flat + 40).all() and (grid > flat).all()


def test_contents_do_not_depend_on_the_style(tmp_path):
    folders = {style: write_dataset(tmp_path / style, "val", 1, 3, image_format="png", style=style) for style in STYLES}
    boxes = [json.loads((folder / "instances.json").read_text())["annotations"] for folder in folders.values()]
    assert boxes[0] == boxes[1]
    pictures = [np.asarray(Image.open(folder / "images" / "000000.png")) for folder in folders.values()]
    assert pictures[0].shape == pictures[1].shape and (pictures[0] != pictures[1]).any()
    # blue paper: of all pixels nearly all have the same hue
    assert (pictures[1][..., 2] >= pictures[1][..., 0]).all()


def test_an_unknown_style(tmp_path):
    with pytest.raises(ValueError, match="unknown style 'oil': choose one of plain, blueprint"):
        write_dataset(tmp_path / "out", "val", 1, 0, style="oil")
