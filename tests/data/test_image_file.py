"""Damaged picture files: whatever is wrong with one, the error names it."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from maskrcnn_benchmark.data.datasets.image_file import BrokenImage, MissingImage, decode_rgb, read_rgb
from maskrcnn_benchmark.engine.image_io import load_image


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "PPM", "GIF"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_named(kind):
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(content, kind)
    whole, draw, broken = content.getvalue(), random.Random(0), 0
    for attempt in range(150):
        damaged = bytearray(whole)
        if attempt % 3 == 0:
            del damaged[draw.randrange(len(damaged)) :]
        for _ in range(draw.randrange(1, 6) if damaged else 0):
            damaged[draw.randrange(min(len(damaged), 200))] = draw.randrange(256)
        try:
            assert decode_rgb(io.BytesIO(bytes(damaged)), "a.png").mode == "RGB"
        except BrokenImage as error:
            assert str(error).startswith("cannot read image a.png: ")
            broken += 1
    assert broken > 20


@pytest.mark.parametrize(("kind", "factor"), [(np.uint16, 257), (np.int32, 257), (np.int32, 1), (np.float32, 1 / 255)])
def test_deep_grey_pictures_are_scaled_as_in_predictions(tmp_path, kind, factor):
    grey = np.arange(256).reshape(16, 16)
    Image.fromarray((grey * factor).astype(kind)).save(tmp_path / "deep.tif")
    read = np.asarray(read_rgb(tmp_path / "deep.tif"))
    assert np.array_equal(read, np.stack([grey] * 3, axis=2))
    assert np.array_equal(read, load_image(tmp_path / "deep.tif"))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(MissingImage, match=rf"image file {tmp_path}/a\.jpg does not exist"):
        read_rgb(tmp_path / "a.jpg")
