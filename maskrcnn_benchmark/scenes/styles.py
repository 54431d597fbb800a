"""Other looks for the same scenes: what stands where stays as it is, how it is drawn changes."""

from collections.abc import Callable

import numpy as np
from PIL import Image

PLAIN = "plain"
_PAPER, _INK = np.array([22.0, 52.0, 112.0]), np.array([226.0, 236.0, 250.0])
_LINE_STRENGTH, _QUIET = 0.04, 3.0  # ink for a level of slope, and slopes that leave no mark
_GRID, _GRID_INK = 40, 0.12  # pixels between the lines of the paper, and their share of ink


def blueprint(picture: Image.Image) -> Image.Image:
    """Light lines where the picture changes, on blue paper with a grid: no colours, no filled shapes."""
    colors = np.asarray(picture.convert("RGB"), dtype=np.float64)
    smooth = colors.copy()
    height, width = colors.shape[:2]
    windows = [colors[y : height - 2 + y, x : width - 2 + x] for y in range(3) for x in range(3)]
    smooth[1:-1, 1:-1] = np.sum(windows, axis=0) / len(windows)
    down, right = np.gradient(smooth, axis=(0, 1))
    slope = np.sqrt(down**2 + right**2).max(axis=-1)
    ink = np.clip((slope - _QUIET) * _LINE_STRENGTH, 0.0, 1.0)
    ink[::_GRID] = np.maximum(ink[::_GRID], _GRID_INK)
    ink[:, ::_GRID] = np.maximum(ink[:, ::_GRID], _GRID_INK)
    drawn = _PAPER + ink[..., None] * (_INK - _PAPER)
    return Image.fromarray(np.floor(drawn + 0.5).astype(np.uint8))


STYLES: dict[str, Callable[[Image.Image], Image.Image]] = {PLAIN: lambda picture: picture, "blueprint": blueprint}
"""By name: how a finished picture is drawn anew."""
