"""Reading picture files for the datasets."""

import os

from PIL import Image, UnidentifiedImageError


def read_rgb(path: str | os.PathLike[str]) -> Image.Image:
    """The picture at `path`, decoded, as RGB. EXIF rotation is not applied: annotations refer to the stored pixels.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a picture, or it is broken; the text names it.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise FileNotFoundError(f"image file {os.fspath(path)} does not exist") from None
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read image {os.fspath(path)}: {error}") from error
