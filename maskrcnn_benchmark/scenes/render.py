"""Draws one thing: outlines of a kind, turned, scaled and coloured, as a small anti-aliased picture with its mask."""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from maskrcnn_benchmark.scenes.kinds import KINDS
from maskrcnn_benchmark.scenes.palette import RGB, Color

TEXTURES = ("plain", "striped", "dotted", "checked")

# One channel per role: a CMYK image has four channels without any meaning of transparency.
_ROLE_INK = {
    "body": (255, 0, 0, 0),
    "shade": (0, 255, 0, 0),
    "dark": (0, 0, 255, 0),
    "light": (0, 0, 0, 255),
    "hole": (0, 0, 0, 0),
}
_OUTLINE_WIDTH = 0.022  # of the size
_MIN_OUTLINE_PIXELS = 0.8


@dataclass(frozen=True)
class Appearance:
    """How one thing looks: size is its longer side in pixels, rotation is in degrees clockwise."""

    kind: str
    color: Color
    texture: str
    size: float
    rotation: float
    flipped: bool
    tint: RGB
    texture_phase: tuple[float, float, float]


@dataclass(frozen=True)
class Sprite:
    """rgb (h, w, 3) float32, premultiplied; alpha (h, w) float32 in [0, 1]; solid (h, w) bool, tight to its edges."""

    rgb: np.ndarray
    alpha: np.ndarray
    solid: np.ndarray


@cache
def _outlines(kind: str) -> list[tuple[str, np.ndarray]]:
    return [(part.role, np.array(part.outline, dtype=np.float64) - 0.5) for part in KINDS[kind].parts]


def _texture_mask(texture: str, height: int, width: int, size: float, phase: tuple[float, float, float]) -> np.ndarray:
    """Where the texture colour replaces the body colour: (height, width) bool."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    cos, sin = math.cos(phase[2]), math.sin(phase[2])
    period = max(6.0, size * 0.2)
    u = (x * cos + y * sin) / period + phase[0]
    v = (y * cos - x * sin) / period + phase[1]
    if texture == "striped":
        return u % 1.0 < 0.4
    if texture == "dotted":
        return (u % 1.0 - 0.5) ** 2 + (v % 1.0 - 0.5) ** 2 < 0.09
    return (np.floor(u * 1.25) + np.floor(v * 1.25)) % 2 == 0


def draw(look: Appearance) -> Sprite:
    """Renders supersampled, averages down, and crops to the solid pixels (those covered by at least a half)."""
    angle = math.radians(look.rotation)
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = np.array([[cos, sin], [-sin, cos]])
    if look.flipped:
        matrix = np.array([[-1.0, 0.0], [0.0, 1.0]]) @ matrix
    outlines = [(role, points @ matrix) for role, points in _outlines(look.kind)]
    everything = np.concatenate([points for _, points in outlines])
    low, high = everything.min(axis=0), everything.max(axis=0)
    line = max(_MIN_OUTLINE_PIXELS, _OUTLINE_WIDTH * look.size)
    scale = (look.size - 2 * line) / float((high - low).max())

    factor = 4 if look.size < 100 else 3
    margin = 3
    width, height = (int(math.ceil(extent * scale)) + 2 * margin + 2 * math.ceil(line) for extent in high - low)
    canvas = Image.new("CMYK", (width * factor, height * factor))
    pen = ImageDraw.Draw(canvas)
    origin = margin + math.ceil(line)
    # Whole supersampled pixels, so that the last bits of sine and cosine never reach the picture.
    drawn = [
        (role, [tuple(point) for point in np.rint(((points - low) * scale + origin) * factor).astype(int).tolist()])
        for role, points in outlines
    ]
    stroke = max(1, round(2 * line * factor))
    for role, points in drawn:
        if role != "hole":
            pen.line([*points, points[0], points[1]], fill=_ROLE_INK["dark"], width=stroke, joint="curve")
    for role, points in drawn:
        if role == "hole":
            pen.line([*points, points[0], points[1]], fill=_ROLE_INK["dark"], width=stroke, joint="curve")
        pen.polygon(points, fill=_ROLE_INK[role])
    painted = np.asarray(canvas.reduce(factor))  # (h, w, role), 255 = covered
    solid = painted.sum(axis=2, dtype=np.int32) >= 128
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    coverage, solid = painted[window].astype(np.float32) / np.float32(255), solid[window]
    alpha = np.minimum(coverage.sum(axis=2), np.float32(1))

    color = look.color
    roles = np.array([color.body, color.shade, color.dark, color.light], dtype=np.float32)
    roles[:2] = np.clip(roles[:2] + np.array(look.tint, dtype=np.float32), 0, 255)
    rgb = np.zeros((*solid.shape, 3), dtype=np.float32)
    for ink in range(4):  # not a matrix product: its rounding differs between processors
        rgb += coverage[:, :, ink, None] * roles[ink]
    if look.texture != "plain":
        height, width = solid.shape
        mask = _texture_mask(look.texture, height, width, look.size, look.texture_phase)
        change = np.array(color.texture, dtype=np.float32) - np.array(color.body, dtype=np.float32)
        rgb += (coverage[:, :, 0] * mask)[:, :, None] * change
    return Sprite(rgb, alpha, solid)
