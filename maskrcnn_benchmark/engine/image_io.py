"""Pictures from disk or memory as RGB uint8 arrays, whatever their file format, colour mode or orientation."""

import glob
import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from maskrcnn_benchmark.utils.pixel_depth import from_16_bit, with_8_bits

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})

# What Pillow's decoders raise on damaged files, besides OSError.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    RuntimeError,  # AVIF; with NotImplementedError
    AttributeError,
    MemoryError,  # a size that the damage made huge
    Image.DecompressionBombError,
)


class ImageError(ValueError):
    """A picture cannot be used; the message names it and says why."""


def load_image(path: str | Path) -> np.ndarray:
    """Reads a picture as (H, W, 3) uint8 RGB, upright (EXIF orientation applied), the first frame of several.

    Grey, 16-bit, palette and CMYK pictures are converted; transparency is laid over white.
    Raises: ImageError naming ``path`` when it is missing, no picture, damaged or empty.
    """
    with _open(path) as picture:
        try:
            picture.load()
            return _to_rgb(ImageOps.exif_transpose(picture))
        except _DECODER_ERRORS as error:
            raise ImageError(f"picture '{path}' is damaged: {_one_line(error)}") from error


def check_image(path: str | Path) -> tuple[int, int]:
    """Reads only the header of a picture and returns its stored (width, height); raises as ``load_image`` does."""
    with _open(path) as picture:
        return picture.size


def as_rgb_array(image: str | Path | Image.Image | np.ndarray) -> np.ndarray:
    """A path, a Pillow image or an array as (H, W, 3) uint8 RGB.

    Arrays are (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, of uint8 or uint16 (full range).
    Raises: ImageError for other shapes, types and for empty pictures.
    """
    if isinstance(image, str | Path):
        return load_image(image)
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise ImageError(f"picture of zero size {image.size[0]}x{image.size[1]}")
        return _to_rgb(ImageOps.exif_transpose(image))
    if not isinstance(image, np.ndarray):
        raise ImageError(f"a picture is a path, a Pillow image or a numpy array, not {type(image).__name__}")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        raise ImageError(f"a picture array has the shape (H, W), (H, W, 3) or (H, W, 4), not {image.shape}")
    if 0 in image.shape:
        raise ImageError(f"picture of zero size, shape {image.shape}")
    if image.dtype == np.uint16:
        image = from_16_bit(image)
    if image.dtype != np.uint8:
        raise ImageError(f"a picture array holds uint8 or uint16 values, not {image.dtype}")
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    return _to_rgb(Image.fromarray(image))


def find_images(patterns: Iterable[str | Path]) -> list[Path]:
    """Files, folders and glob patterns as a list of picture files without repetitions, in the order given.

    A folder stands for the picture files directly in it, by suffix and in order of their names; files named one by one
    are kept whatever their suffix, also when they do not exist, so that the reader can report them.
    Raises: ImageError for an empty name, a folder without pictures and a pattern without matches.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        if not str(pattern):
            raise ImageError("the name of a picture is empty: ''")
        found.update(dict.fromkeys(_expand(Path(pattern))))
    return list(found)


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
        if not files:
            raise ImageError(f"no pictures in the folder '{path}' (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")
        return files
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    files = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if not Path(name).is_dir()]
    if not files:
        raise ImageError(f"no file matches '{path}'")
    return files


def _open(path: str | Path) -> Image.Image:
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):  # reading it could wait forever
        raise ImageError(f"picture '{path}' is a pipe or device; save it to a file first")
    try:
        picture = Image.open(path)
    except FileNotFoundError:
        raise ImageError(f"picture '{path}' does not exist") from None
    except IsADirectoryError:
        raise ImageError(f"'{path}' is a folder, not a picture") from None
    except UnidentifiedImageError as error:
        empty = Path(path).stat().st_size == 0
        reason = "the file is empty" if empty else "not a picture in a known format, or its beginning is damaged"
        raise ImageError(f"cannot read picture '{path}': {reason}") from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(f"picture '{path}' is too large: more than {most:,} pixels; make it smaller") from error
    except _DECODER_ERRORS as error:
        raise ImageError(f"cannot read picture '{path}': {_one_line(error)}") from error
    if 0 in picture.size:
        picture.close()
        raise ImageError(f"picture '{path}' has zero size {picture.size[0]}x{picture.size[1]}")
    return picture


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _to_rgb(picture: Image.Image) -> np.ndarray:
    picture = with_8_bits(picture)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer)
    return np.array(picture.convert("RGB"))
