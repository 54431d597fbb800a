"""Grey pictures with more than 8 bits per pixel, which Pillow would cut off at 255 instead of scaling them."""

import numpy as np
from PIL import Image


def from_16_bit(values: np.ndarray) -> np.ndarray:
    """0..65535 -> 0..255, rounded."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def with_8_bits(picture: Image.Image) -> Image.Image:
    """The picture; one of 16-bit or 32-bit integers or of floats as 8-bit grey.

    16-bit pictures have their full range. Integers of 32 bits up to 255 stay as they are, others count as 16-bit ones.
    Floats are scaled by 255 where none is above 1.
    """
    if picture.mode.startswith("I"):  # 16-bit grey in its several byte orders, or 32-bit integers
        values = np.asarray(picture).astype(np.int64).clip(0, 65535)
        wide = picture.mode != "I" or values.max() > 255
        return Image.fromarray(from_16_bit(values) if wide else values.astype(np.uint8))
    if picture.mode == "F":
        values = np.nan_to_num(np.asarray(picture), nan=0.0, posinf=255.0, neginf=0.0)
        scale = 255.0 if values.max() <= 1 else 1.0
        return Image.fromarray((values * scale).clip(0, 255).round().astype(np.uint8))
    return picture
