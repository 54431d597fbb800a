"""Pictures of every kind become upright RGB uint8 arrays, and bad ones an error that names them."""

import os

import numpy as np
import pytest
from PIL import Image

from maskrcnn_benchmark.engine.image_io import ImageError, as_rgb_array, check_image, find_images, load_image

RAMP = np.linspace(0, 255, 12 * 20).reshape(12, 20).round().astype(np.uint8)


@pytest.fixture
def color():
    return np.stack([RAMP, RAMP[::-1], np.full_like(RAMP, 77)], -1)


def test_rgb_png_is_exact(tmp_path, color):
    Image.fromarray(color).save(tmp_path / "a.png")
    result = load_image(tmp_path / "a.png")
    assert result.dtype == np.uint8 and (result == color).all()


@pytest.mark.parametrize(
    "mode", ["L", "1", "P", "LA", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "RGBX", "PA", "I", "F", "I;16"]
)
def test_every_colour_mode(tmp_path, color, mode):
    if mode in ("I", "F", "I;16"):
        picture = Image.fromarray(RAMP).convert(mode)
    elif mode == "LAB":
        picture = Image.fromarray(color, "LAB")
    else:
        picture = Image.fromarray(color).convert("LA" if mode == "PA" else mode)
        picture = picture.convert("PA") if mode == "PA" else picture
    result = as_rgb_array(picture)
    assert result.shape == (12, 20, 3) and result.dtype == np.uint8


def test_16_bit_grey_is_scaled(tmp_path):
    values = (RAMP.astype(np.uint16) * 257).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        assert (load_image(tmp_path / name) == RAMP[:, :, None]).all()
    assert (as_rgb_array(values) == RAMP[:, :, None]).all()


def test_float_picture_of_unit_range_is_scaled():
    result = as_rgb_array(Image.fromarray((RAMP / 255).astype(np.float32)))
    assert (result == RAMP[:, :, None]).all()


def test_transparency_lies_over_white(tmp_path):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (10, 20, 30, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    result = load_image(tmp_path / "a.png")
    assert tuple(result[0, 0]) == (10, 20, 30) and tuple(result[1, 1]) == (255, 255, 255)
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=0)
    assert load_image(tmp_path / "p.png").tolist() == [[[255, 255, 255], [200, 0, 0]]]


def test_exif_orientation_is_applied(tmp_path, color):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show rotated by 90 degrees clockwise
    Image.fromarray(color).save(tmp_path / "a.png", exif=exif)
    assert (load_image(tmp_path / "a.png") == np.rot90(color, -1)).all()


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert tuple(load_image(tmp_path / "a.gif")[0, 0]) == (255, 0, 0)


def _truncated(path, color):
    Image.fromarray(np.tile(color, (20, 20, 1))).save(path, quality=95)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a\.png' is a pipe or device"):
        check_image(tmp_path / "a.png")


def test_a_picture_of_too_many_pixels(tmp_path, monkeypatch):
    Image.new("L", (40, 30)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(ImageError, match=r"a\.png' is too large: more than 1,000 pixels"):
        check_image(tmp_path / "a.png")


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied", "a.png"), OSError("no\nreason")])
def test_pictures_that_cannot_be_opened(tmp_path, monkeypatch, error):
    def fail(path):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ImageError, match=f"^cannot read picture 'a.png': {error.strerror or 'no reason'}$"):
        check_image("a.png")


@pytest.mark.parametrize(
    "error", [RuntimeError("Failed to decode"), NotImplementedError("flags"), AttributeError("offset"), MemoryError()]
)
def test_whatever_damage_makes_of_a_decoder(tmp_path, monkeypatch, error):
    """AVIF, DDS, SPIDER and JPEG 2000 files with a few wrong bytes raised these."""

    def fail(*arguments):
        raise error

    Image.new("RGB", (4, 3)).save(tmp_path / "a.bmp")
    with monkeypatch.context() as patch:
        patch.setattr("PIL.ImageFile.ImageFile.load", fail)
        with pytest.raises(ImageError, match=r"a\.bmp' is damaged: ."):
            load_image(tmp_path / "a.bmp")
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ImageError, match=r"cannot read picture .*a\.bmp': ."):
        check_image(tmp_path / "a.bmp")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp"])
def test_truncated_picture(tmp_path, color, name):
    _truncated(tmp_path / name, color)
    with pytest.raises(ImageError, match=name) as error:
        load_image(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"hello", "not a picture"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", ""),
        (b"P6 0 0 255\n", ""),
    ],
)
def test_broken_picture(tmp_path, content, reason):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    for read in (load_image, check_image):
        with pytest.raises(ImageError, match="broken.png.*" + reason):
            read(path)


def test_missing_picture_and_folder(tmp_path):
    with pytest.raises(ImageError, match="nowhere.png' does not exist"):
        load_image(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match="is a folder"):
        load_image(tmp_path)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((5, 5, 2), np.uint8),
        np.zeros((5,), np.uint8),
        np.zeros((5, 5, 3), np.float32),
        Image.new("RGB", (0, 4)),
        None,
    ],
)
def test_unusable_objects(image):
    with pytest.raises(ImageError):
        as_rgb_array(image)


def test_arrays_of_all_shapes(color):
    assert (as_rgb_array(color) == color).all()
    assert (as_rgb_array(RAMP) == RAMP[:, :, None]).all()
    assert (as_rgb_array(RAMP[:, :, None]) == RAMP[:, :, None]).all()
    assert as_rgb_array(np.dstack([color, RAMP])).shape == (12, 20, 3)


def test_find_images(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd[1].png").touch()
    folder = [tmp_path / "a.JPG", tmp_path / "b.png", tmp_path / "odd[1].png"]
    assert find_images([tmp_path]) == folder
    assert find_images([str(tmp_path / "*.png"), tmp_path / "b.png"]) == [tmp_path / "b.png", tmp_path / "odd[1].png"]
    assert find_images([tmp_path / "odd[1].png"]) == [tmp_path / "odd[1].png"]
    assert find_images([tmp_path / "gone.png"]) == [tmp_path / "gone.png"]
    for bad, message in (
        (tmp_path / "empty", "no pictures in the folder"),
        (tmp_path / "*.gif", "no file matches"),
        ("", "''"),
    ):
        with pytest.raises(ImageError, match=message):
            find_images([bad])
