"""Reading picture files for the datasets."""

import os
import struct
import zlib
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

_DECODING_ERRORS = (  # what the decoders of PIL raise on damaged files
    UnidentifiedImageError,
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class BrokenImage(ValueError):
    """A file that is not a picture, or a damaged one."""


class MissingImage(FileNotFoundError):
    """There is no file where a picture should be."""


def read_rgb(path: str | os.PathLike[str]) -> Image.Image:
    """The picture at `path`, decoded, as RGB. EXIF rotation is not applied: annotations refer to the stored pixels.

    Raises:
        MissingImage: there is no such file.
        BrokenImage: the file is not a picture, or it is broken; the text names it.
    """
    try:
        return decode_rgb(path, os.fspath(path))
    except FileNotFoundError:
        raise MissingImage(f"image file {os.fspath(path)} does not exist") from None


def decode_rgb(source: str | os.PathLike[str] | BinaryIO, name: str) -> Image.Image:
    """The picture in a file, as RGB. Raises: BrokenImage, with `name`, if it is not a picture, or a broken one."""
    try:
        with Image.open(source) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise
    except _DECODING_ERRORS as error:
        raise BrokenImage(f"cannot read image {name}: {error}") from error
