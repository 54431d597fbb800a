"""Cluttered, textured backgrounds in quiet colours, and the camera noise laid over a finished scene."""

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from maskrcnn_benchmark.scenes.rng import SceneRandom

_SINE = np.array([math.sin(2 * math.pi * step / 1024) for step in range(1024)], dtype=np.float32)
_PATTERNS = ("smooth", "stripes", "checks", "waves", "planks", "speckles")


@lru_cache(maxsize=1)
def _noise_tiles() -> tuple[np.ndarray, np.ndarray]:
    """White noise (2, 700, 900) for the camera, and soft blobs (4, 700, 900) for the ground; both of unit deviation.

    RandomState's stream is frozen by NumPy, unlike that of Generator.
    """
    state = np.random.RandomState(20240607)
    white = state.standard_normal((2, 700, 900)).astype(np.float32)
    blobs = []
    for cells in (12, 24, 48, 120):
        grid = Image.fromarray(state.standard_normal((cells, cells)).astype(np.float32))
        blob = np.asarray(grid.resize((900, 700), Image.Resampling.BICUBIC), dtype=np.float32)
        blobs.append(blob / np.float32(round(float(blob.std(dtype=np.float64)), 3)))
    return white, np.stack(blobs)


def _sine(turns: np.ndarray) -> np.ndarray:
    """Sine of an angle in turns, from a table: NumPy's own differs in the last bit between processors."""
    return _SINE[np.floor(turns * len(_SINE)).astype(np.int64) % len(_SINE)]


def _crop(tile: np.ndarray, height: int, width: int, rng: SceneRandom) -> np.ndarray:
    top, left = rng.integer(0, tile.shape[0] - height), rng.integer(0, tile.shape[1] - width)
    window = tile[top : top + height, left : left + width]
    if rng.chance(0.5):
        window = window[::-1]
    return window[:, ::-1] if rng.chance(0.5) else window


def _quiet_color(rng: SceneRandom) -> np.ndarray:
    """A colour of low saturation: at most 22 grey levels away from its own grey."""
    grey = rng.uniform(60, 215)
    return np.array([grey + rng.uniform(-22, 22) for _ in range(3)], dtype=np.float32)


def _pattern(height: int, width: int, rng: SceneRandom) -> np.ndarray:
    """A map (height, width) in about [-1, 1] that says where the ground is lighter or darker."""
    name = rng.choice(_PATTERNS)
    if name == "smooth":
        return _crop(_noise_tiles()[1][rng.integer(0, 1)], height, width, rng) * 0.5
    if name == "speckles":
        return _crop(_noise_tiles()[1][rng.integer(2, 3)], height, width, rng) * 0.6
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None, :]
    period = rng.uniform(14, 90)
    slope = rng.uniform(-1.0, 1.0)
    if name == "stripes":
        return np.where(((x + slope * y) / period) % 1.0 < 0.5, np.float32(0.5), np.float32(-0.5))
    if name == "checks":
        return ((np.floor(x / period) + np.floor(y / period)) % 2).astype(np.float32) - 0.5
    if name == "waves":
        return _sine((x + 18.0 * _sine(y / rng.uniform(120, 360))) / period) * np.float32(0.6)
    rows = np.floor(y / period)  # planks: rows with joints, each row with a tone of its own
    joints = np.floor((x + rows * period * 1.7) / (3.1 * period))
    tone = (rows * 0.37 + joints * 0.61) % 1.0 - 0.5
    return np.where((y % period < 2) | ((x + rows * period * 1.7) % (3.1 * period) < 2), np.float32(-0.9), tone)


def _clutter(image: Image.Image, rng: SceneRandom) -> None:
    """Shards, lines and blots in quiet colours: things that have no name."""
    pen = ImageDraw.Draw(image)
    width, height = image.size
    for _ in range(rng.integer(4, 22)):
        color = tuple(int(value) for value in _quiet_color(rng))
        x, y, reach = rng.integer(0, width), rng.integer(0, height), rng.integer(6, 70)
        shape = rng.integer(0, 3)
        if shape == 0:
            pen.polygon(
                [(x + rng.integer(-reach, reach), y + rng.integer(-reach, reach)) for _ in range(rng.integer(4, 7))],
                fill=color,
            )
        elif shape == 1:
            end = (x + rng.integer(-3 * reach, 3 * reach), y + rng.integer(-3 * reach, 3 * reach))
            pen.line([(x, y), end], fill=color, width=rng.integer(1, 5))
        elif shape == 2:
            thin, long = rng.integer(3, 12), rng.integer(24, 90)
            pen.ellipse([x, y, x + thin, y + long] if rng.chance(0.5) else [x, y, x + long, y + thin], fill=color)
        else:
            for _ in range(rng.integer(3, 9)):
                px, py, size = x + rng.integer(-40, 40), y + rng.integer(-40, 40), rng.integer(1, 4)
                pen.rectangle([px, py, px + size, py + size], fill=color)


def background(width: int, height: int, rng: SceneRandom) -> np.ndarray:
    """A ground (height, width, 3) float32 in [0, 255]."""
    first, second = _quiet_color(rng), _quiet_color(rng)
    blend = np.clip(_crop(_noise_tiles()[1][0], height, width, rng) * 0.25 + 0.5, 0.0, 1.0)
    strength = rng.uniform(6, 26)
    level = _pattern(height, width, rng) * strength
    ground = np.empty((height, width, 3), dtype=np.float32)
    for channel in range(3):
        np.multiply(blend, second[channel] - first[channel], out=ground[:, :, channel])
        ground[:, :, channel] += level + first[channel]
    image = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    _clutter(image, rng)
    return np.asarray(image, dtype=np.float32)


def add_camera(scene: np.ndarray, rng: SceneRandom) -> np.ndarray:
    """Uneven light and sensor noise over (height, width, 3) float32, returned as uint8."""
    height, width = scene.shape[:2]
    light = 1.0 + rng.uniform(0.0, 0.06) * _crop(_noise_tiles()[1][0], height, width, rng)
    light *= rng.uniform(0.88, 1.08)
    deviation = rng.uniform(0.0, 7.0)
    white = _noise_tiles()[0]
    grain = _crop(white[0], height, width, rng) * deviation
    scene *= light[:, :, None]
    scene += grain[:, :, None]
    scene[:, :, rng.integer(0, 2)] += _crop(white[1], height, width, rng) * (deviation * 0.5)
    return np.clip(scene + 0.5, 0, 255, out=scene).astype(np.uint8)
