"""Reading picture files for the datasets."""

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from maskrcnn_benchmark.utils.pixel_depth import with_8_bits

_DECODING_ERRORS = (  # what the decoders of PIL raise on damaged files
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

    Grey pictures of more than 8 bits are scaled to 8; the original cuts them off, which makes them white.

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
    with _opened(source, name) as image:
        return with_8_bits(image).convert("RGB")


def picture_size(source: str | os.PathLike[str] | BinaryIO, name: str) -> tuple[int, int]:
    """(height, width) in the header of a picture file. Raises: BrokenImage, with `name`."""
    with _opened(source, name) as image:
        return image.height, image.width


@contextmanager
def _opened(source: str | os.PathLike[str] | BinaryIO, name: str) -> Iterator[Image.Image]:
    try:
        with Image.open(source) as image:
            yield image
    except FileNotFoundError:
        raise
    except UnidentifiedImageError:  # its text names an address in memory, another one every time
        raise BrokenImage(f"cannot read image {name}: it is of no known picture format") from None
    except _DECODING_ERRORS as error:
        raise BrokenImage(f"cannot read image {name}: {error}") from error
