"""Reading picture files for the datasets."""

import os
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError


def read_rgb(path: str | os.PathLike[str]) -> Image.Image:
    """The picture at `path`, decoded, as RGB. EXIF rotation is not applied: annotations refer to the stored pixels.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a picture, or it is broken; the text names it.
    """
    try:
        return decode_rgb(path, os.fspath(path))
    except FileNotFoundError:
        raise FileNotFoundError(f"image file {os.fspath(path)} does not exist") from None


def decode_rgb(source: str | os.PathLike[str] | BinaryIO, name: str) -> Image.Image:
    """The picture in a file, as RGB. Raises: ValueError, with `name`, if it is not a picture, or a broken one."""
    try:
        with Image.open(source) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read image {name}: {error}") from error
