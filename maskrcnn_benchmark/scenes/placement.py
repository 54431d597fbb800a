"""Puts the things into the picture: where each stands, what it hides, and how much of everything stays visible."""

from dataclasses import dataclass

import numpy as np

from maskrcnn_benchmark.scenes.kinds import KINDS
from maskrcnn_benchmark.scenes.palette import COLORS
from maskrcnn_benchmark.scenes.render import Appearance, Sprite, draw
from maskrcnn_benchmark.scenes.rng import SceneRandom
from maskrcnn_benchmark.scenes.sampling import Wish
from maskrcnn_benchmark.scenes.scene import SceneObject

_ATTEMPTS = 24
_MODES, _MODE_WEIGHTS = ("free", "overlap", "frame"), (0.42, 0.49, 0.09)
_MIN_VISIBLE = {"small": 0.6, "medium": 0.45, "large": 0.42}
_MIN_VISIBLE_FREE = 0.97


@dataclass
class _Placed:
    wish: Wish
    rotation: float
    bbox: tuple[int, int, int, int]  # x, y, w, h around the solid pixels inside the image
    total: int  # solid pixels as drawn
    visible: int  # solid pixels inside the image and not covered


def _sprite(wish: Wish, rng: SceneRandom) -> tuple[Sprite, float]:
    limit = KINDS[wish.kind].max_rotation
    rotation = round(rng.uniform(-limit, limit), 1)
    brightness = rng.uniform(-12, 12)
    look = Appearance(
        kind=wish.kind,
        color=COLORS[wish.color],
        texture=wish.texture,
        size=wish.size,
        rotation=rotation,
        flipped=rng.chance(0.5),
        tint=(brightness + rng.uniform(-7, 7), brightness + rng.uniform(-7, 7), brightness + rng.uniform(-7, 7)),
        texture_phase=(rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0, 3.14)),
    )
    return draw(look), rotation


class Composer:
    """Paints things one over the other onto a ground, and refuses a place that would hide one of them too much."""

    def __init__(self, ground: np.ndarray):
        self.canvas = ground  # (H, W, 3) float32, painted in place
        self._owner: np.ndarray = np.full(ground.shape[:2], -1, dtype=np.int32)
        self._placed: list[_Placed] = []

    def add(self, wish: Wish, rng: SceneRandom) -> bool:
        """Paints the thing where it fits; False if no place was found."""
        sprite, rotation = _sprite(wish, rng)
        mode = rng.weighted(_MODES, _MODE_WEIGHTS)
        for attempt in range(_ATTEMPTS):
            if attempt >= _ATTEMPTS // 2:
                mode = "free"
            left, top = self._propose(mode, sprite, rng)
            if self._try(wish, rotation, sprite, left, top, strict=mode == "free"):
                return True
        return False

    def _propose(self, mode: str, sprite: Sprite, rng: SceneRandom) -> tuple[int, int]:
        """The left and top edge of a place to try."""
        image_height, image_width = self._owner.shape
        height, width = sprite.solid.shape
        left = rng.integer(0, image_width - width)
        top = rng.integer(0, image_height - height)
        if mode == "overlap" and self._placed:
            under = rng.choice(self._placed)
            reach = rng.uniform(0.35, 0.8)
            if rng.chance(0.5):
                dx, dy = rng.choice((-1, 1)) * reach, rng.uniform(-0.6, 0.6)
            else:
                dx, dy = rng.uniform(-0.6, 0.6), rng.choice((-1, 1)) * reach
            x, y, under_width, under_height = under.bbox
            left = round(x + under_width / 2 + dx * (under_width + width) / 2 - width / 2)
            top = round(y + under_height / 2 + dy * (under_height + height) / 2 - height / 2)
        elif mode == "frame":
            hidden = rng.uniform(0.12, 0.5)
            side = rng.integer(0, 3)
            if side == 0:
                left = -round(hidden * width)
            elif side == 1:
                left = image_width - round((1 - hidden) * width)
            elif side == 2:
                top = -round(hidden * height)
            else:
                top = image_height - round((1 - hidden) * height)
        return left, top

    def _try(self, wish: Wish, rotation: float, sprite: Sprite, left: int, top: int, *, strict: bool) -> bool:
        image_height, image_width = self._owner.shape
        height, width = sprite.solid.shape
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + width, image_width), min(top + height, image_height)
        if x1 - x0 < 4 or y1 - y0 < 4:
            return False
        part = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        place = (slice(y0, y1), slice(x0, x1))
        solid = sprite.solid[part]
        total, visible = int(sprite.solid.sum()), int(solid.sum())
        if visible < _MIN_VISIBLE[wish.size_word] * total:
            return False
        covered = np.bincount(self._owner[place][solid] + 1, minlength=len(self._placed) + 1)[1:]
        for index in np.flatnonzero(covered):
            under = self._placed[index]
            least = _MIN_VISIBLE_FREE if strict else _MIN_VISIBLE[under.wish.size_word]
            if under.visible - covered[index] < min(least * under.total, under.visible):
                return False
        for index in np.flatnonzero(covered):
            self._placed[index].visible -= int(covered[index])
        self._owner[place][solid] = len(self._placed)
        rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
        bbox = (
            x0 + int(columns[0]),
            y0 + int(rows[0]),
            int(columns[-1] - columns[0]) + 1,
            int(rows[-1] - rows[0]) + 1,
        )
        self._placed.append(_Placed(wish, rotation, bbox, total, visible))
        window = self.canvas[place]
        window *= 1.0 - sprite.alpha[part][:, :, None]
        window += sprite.rgb[part]
        return True

    def objects(self) -> list[SceneObject]:
        """The things painted so far, in the order they were painted."""
        return [
            SceneObject(
                kind=item.wish.kind,
                color=item.wish.color,
                size_word=item.wish.size_word,
                texture=item.wish.texture,
                rotation=item.rotation,
                bbox=item.bbox,
                visible_fraction=round(item.visible / item.total, 3),
            )
            for item in self._placed
        ]
