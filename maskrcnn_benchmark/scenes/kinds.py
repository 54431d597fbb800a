"""The kinds of things a scene is made of: one small drawing each, in the unit square.

A drawing is a list of parts painted in order. A part is an outline and a role: ``body`` (the thing's colour, with its
texture), ``shade`` (the same colour, darker), ``dark`` and ``light`` (small accents) or ``hole`` (erases).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from maskrcnn_benchmark.scenes.geometry import (
    Outline,
    arc,
    bar,
    ellipse,
    mirrored,
    rectangle,
    spikes,
    teeth,
)


@dataclass(frozen=True)
class Part:
    role: str
    outline: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Kind:
    """name: the word in captions; parts: the drawing; max_rotation: degrees to either side; min_size: pixels."""

    name: str
    parts: tuple[Part, ...]
    max_rotation: float
    min_size: float


class Sketch:
    """Collects the parts of one drawing."""

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def _add(self, role: str, outlines: tuple[Outline, ...]) -> None:
        self.parts.extend(Part(role, tuple(outline)) for outline in outlines)

    def body(self, *outlines: Outline) -> None:
        self._add("body", outlines)

    def shade(self, *outlines: Outline) -> None:
        self._add("shade", outlines)

    def dark(self, *outlines: Outline) -> None:
        self._add("dark", outlines)

    def light(self, *outlines: Outline) -> None:
        self._add("light", outlines)

    def hole(self, *outlines: Outline) -> None:
        self._add("hole", outlines)


KINDS: dict[str, Kind] = {}


def _kind(*, rotation: float = 25.0, min_size: float = 18.0) -> Callable[[Callable[[Sketch], None]], None]:
    """Registers a drawing under its function's name."""

    def register(draw: Callable[[Sketch], None]) -> None:
        sketch = Sketch()
        draw(sketch)
        name = draw.__name__.strip("_")
        KINDS[name] = Kind(name, tuple(sketch.parts), rotation, min_size)

    return register


@_kind(rotation=36)
def _star(s: Sketch) -> None:
    s.body(spikes(0.5, 0.5, 0.5, 0.2, 5))


@_kind()
def _heart(s: Sketch) -> None:
    outline = []
    for step in range(48):
        t = 2 * math.pi * step / 48
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        outline.append((0.5 + x / 34, 0.47 - y / 34))
    s.body(outline)


@_kind(rotation=180)
def _ball(s: Sketch) -> None:
    s.body(ellipse(0.5, 0.5, 0.5))
    s.light(ellipse(0.33, 0.3, 0.13, 0.08, tilt=-45))


@_kind(rotation=15)
def _cube(s: Sketch) -> None:
    s.body([(0.5, 0.0), (0.95, 0.24), (0.5, 0.48), (0.05, 0.24)])
    s.shade([(0.05, 0.24), (0.5, 0.48), (0.5, 1.0), (0.05, 0.76)])
    s.body([(0.95, 0.24), (0.5, 0.48), (0.5, 1.0), (0.95, 0.76)])
    s.dark(bar(0.05, 0.24, 0.5, 0.48, 0.05), bar(0.95, 0.24, 0.5, 0.48, 0.05), bar(0.5, 0.48, 0.5, 1.0, 0.05))


@_kind(rotation=60)
def _triangle(s: Sketch) -> None:
    s.body([(0.5, 0.05), (1.0, 0.92), (0.0, 0.92)])


@_kind(rotation=45)
def _cross(s: Sketch) -> None:
    s.body(rectangle(0.34, 0.0, 0.66, 1.0), rectangle(0.0, 0.34, 1.0, 0.66))


@_kind(rotation=180)
def _arrow(s: Sketch) -> None:
    s.body([(0.0, 0.37), (0.5, 0.37), (0.5, 0.12), (1.0, 0.5), (0.5, 0.88), (0.5, 0.63), (0.0, 0.63)])


@_kind(rotation=40)
def _moon(s: Sketch) -> None:
    outer = ellipse(0.5, 0.5, 0.5, start=52, end=308)
    inner = ellipse(0.76, 0.5, 0.4, start=82, end=278)
    s.body(outer + inner[::-1])


@_kind(rotation=15)
def _cloud(s: Sketch) -> None:
    s.body(
        ellipse(0.2, 0.56, 0.2),
        ellipse(0.42, 0.4, 0.24),
        ellipse(0.65, 0.46, 0.2),
        ellipse(0.83, 0.58, 0.17),
        rectangle(0.2, 0.5, 0.83, 0.755),
    )


@_kind(rotation=180, min_size=20)
def _sun(s: Sketch) -> None:
    s.body(ellipse(0.5, 0.5, 0.26))
    for step in range(8):
        angle = math.radians(45 * step)
        cos, sin = math.cos(angle), math.sin(angle)
        near, far, half = 0.35, 0.52, 0.085
        s.body(
            [
                (0.5 + near * cos - half * sin, 0.5 + near * sin + half * cos),
                (0.5 + far * cos, 0.5 + far * sin),
                (0.5 + near * cos + half * sin, 0.5 + near * sin - half * cos),
            ]
        )


@_kind(rotation=180)
def _flower(s: Sketch) -> None:
    for step in range(5):
        angle = math.radians(72 * step - 90)
        s.body(ellipse(0.5 + 0.29 * math.cos(angle), 0.5 + 0.29 * math.sin(angle), 0.21))
    s.light(ellipse(0.5, 0.5, 0.15))
    s.dark(ellipse(0.5, 0.5, 0.07))


@_kind(rotation=15)
def _tree(s: Sketch) -> None:
    s.shade(rectangle(0.43, 0.75, 0.57, 1.0))
    s.body(
        [(0.5, 0.35), (0.92, 0.8), (0.08, 0.8)],
        [(0.5, 0.16), (0.84, 0.56), (0.16, 0.56)],
        [(0.5, 0.0), (0.75, 0.32), (0.25, 0.32)],
    )


@_kind(rotation=15)
def _house(s: Sketch) -> None:
    s.shade(rectangle(0.7, 0.06, 0.82, 0.4))
    s.body(rectangle(0.12, 0.44, 0.88, 0.98), [(0.5, 0.02), (1.02, 0.48), (-0.02, 0.48)])
    s.dark(rectangle(0.2, 0.62, 0.42, 0.98))
    s.light(rectangle(0.56, 0.6, 0.78, 0.8))


@_kind(rotation=15, min_size=20)
def _car(s: Sketch) -> None:
    s.body(
        [(0.0, 0.5), (0.16, 0.46), (0.3, 0.24), (0.68, 0.24), (0.84, 0.46), (1.0, 0.5), (1.0, 0.7), (0.0, 0.7)],
    )
    s.light(
        [(0.25, 0.46), (0.34, 0.31), (0.47, 0.31), (0.47, 0.46)],
        [(0.53, 0.46), (0.53, 0.31), (0.65, 0.31), (0.74, 0.46)],
    )
    s.dark(ellipse(0.23, 0.7, 0.125), ellipse(0.77, 0.7, 0.125))


@_kind(rotation=15, min_size=22)
def _truck(s: Sketch) -> None:
    s.body(rectangle(0.0, 0.14, 0.62, 0.74))
    s.shade([(0.66, 0.36), (0.86, 0.36), (1.0, 0.55), (1.0, 0.74), (0.6, 0.74), (0.6, 0.6), (0.66, 0.6)])
    s.light([(0.73, 0.42), (0.84, 0.42), (0.92, 0.54), (0.73, 0.54)])
    s.dark(ellipse(0.2, 0.76, 0.115), ellipse(0.8, 0.76, 0.115))


@_kind(rotation=15)
def _boat(s: Sketch) -> None:
    s.dark(rectangle(0.46, 0.0, 0.51, 0.72))
    s.body([(0.54, 0.02), (0.95, 0.62), (0.54, 0.62)], [(0.43, 0.16), (0.43, 0.62), (0.12, 0.62)])
    s.shade([(0.0, 0.7), (1.0, 0.7), (0.8, 0.97), (0.2, 0.97)])


@_kind(rotation=180)
def _airplane(s: Sketch) -> None:
    s.body(
        ellipse(0.5, 0.5, 0.09, 0.5),
        [(0.5, 0.3), (1.0, 0.6), (1.0, 0.7), (0.5, 0.58)],
        [(0.5, 0.3), (0.0, 0.6), (0.0, 0.7), (0.5, 0.58)],
        [(0.5, 0.8), (0.72, 0.93), (0.72, 1.0), (0.5, 0.95), (0.28, 1.0), (0.28, 0.93)],
    )


@_kind(rotation=40)
def _rocket(s: Sketch) -> None:
    s.shade(
        [(0.36, 0.55), (0.1, 0.82), (0.1, 1.0), (0.36, 0.84)], [(0.64, 0.55), (0.9, 0.82), (0.9, 1.0), (0.64, 0.84)]
    )
    s.body([(0.5, 0.0), (0.62, 0.12), (0.7, 0.32), (0.7, 0.86), (0.3, 0.86), (0.3, 0.32), (0.38, 0.12)])
    s.light(ellipse(0.5, 0.38, 0.105))
    s.dark([(0.38, 0.88), (0.62, 0.88), (0.56, 1.0), (0.44, 1.0)])


@_kind()
def _fish(s: Sketch) -> None:
    s.body([(0.62, 0.5), (1.0, 0.2), (0.93, 0.5), (1.0, 0.8)], ellipse(0.38, 0.5, 0.38, 0.26))
    s.shade([(0.3, 0.28), (0.52, 0.1), (0.55, 0.3)])
    s.light(ellipse(0.18, 0.44, 0.075))
    s.dark(ellipse(0.18, 0.44, 0.04))


@_kind(rotation=15, min_size=20)
def _bird(s: Sketch) -> None:
    s.dark(
        bar(0.45, 0.74, 0.45, 0.99, 0.05), bar(0.57, 0.74, 0.57, 0.99, 0.05), [(0.13, 0.22), (0.0, 0.32), (0.16, 0.36)]
    )
    s.body(
        [(0.72, 0.5), (1.0, 0.3), (1.0, 0.46), (0.78, 0.7)],
        ellipse(0.52, 0.58, 0.31, 0.21, tilt=-8),
        ellipse(0.28, 0.27, 0.18),
        [(0.12, 0.3), (0.44, 0.3), (0.5, 0.6), (0.24, 0.6)],
    )
    s.shade(ellipse(0.6, 0.55, 0.2, 0.1, tilt=-15))
    s.dark(ellipse(0.23, 0.23, 0.045))


@_kind(rotation=20)
def _cat(s: Sketch) -> None:
    s.body(
        [(0.06, 0.0), (0.46, 0.28), (0.08, 0.56)],
        [(0.94, 0.0), (0.54, 0.28), (0.92, 0.56)],
        ellipse(0.5, 0.58, 0.46, 0.38),
    )
    s.light(ellipse(0.31, 0.53, 0.105), ellipse(0.69, 0.53, 0.105))
    s.dark(ellipse(0.31, 0.53, 0.055), ellipse(0.69, 0.53, 0.055), [(0.42, 0.7), (0.58, 0.7), (0.5, 0.8)])


@_kind()
def _butterfly(s: Sketch) -> None:
    left = [ellipse(0.25, 0.32, 0.27, 0.22, tilt=35), ellipse(0.3, 0.73, 0.2, 0.19, tilt=-35)]
    s.dark(bar(0.5, 0.3, 0.38, 0.04, 0.04), bar(0.5, 0.3, 0.62, 0.04, 0.04))
    s.body(*left, *(mirrored(wing) for wing in left))
    s.dark(ellipse(0.5, 0.52, 0.055, 0.3))


@_kind(rotation=20)
def _mushroom(s: Sketch) -> None:
    s.light([(0.38, 0.5), (0.62, 0.5), (0.67, 0.97), (0.33, 0.97)])
    s.body(ellipse(0.5, 0.54, 0.5, 0.52, start=180, end=360))
    s.light(ellipse(0.27, 0.38, 0.075), ellipse(0.53, 0.22, 0.085), ellipse(0.74, 0.41, 0.07))


@_kind(rotation=20)
def _apple(s: Sketch) -> None:
    s.dark(bar(0.5, 0.34, 0.55, 0.04, 0.07))
    s.shade(ellipse(0.72, 0.11, 0.19, 0.085, tilt=-20))
    s.body(ellipse(0.32, 0.56, 0.3, 0.34), ellipse(0.68, 0.56, 0.3, 0.34), ellipse(0.5, 0.7, 0.3, 0.29))


@_kind(rotation=40)
def _carrot(s: Sketch) -> None:
    s.shade(bar(0.5, 0.3, 0.24, 0.04, 0.11), bar(0.5, 0.3, 0.5, 0.0, 0.12), bar(0.5, 0.3, 0.76, 0.04, 0.11))
    s.body([(0.28, 0.27), (0.5, 0.21), (0.72, 0.27), (0.7, 0.42), (0.55, 0.95), (0.5, 1.0), (0.45, 0.95), (0.3, 0.42)])
    s.dark(bar(0.3, 0.44, 0.47, 0.46, 0.035), bar(0.7, 0.56, 0.53, 0.58, 0.035), bar(0.37, 0.7, 0.5, 0.71, 0.035))


@_kind(rotation=20)
def _cup(s: Sketch) -> None:
    s.body(arc(0.7, 0.48, 0.22, -100, 100, 0.12), [(0.0, 0.12), (0.74, 0.12), (0.66, 0.9), (0.08, 0.9)])
    s.light(ellipse(0.37, 0.13, 0.3, 0.055))


@_kind(rotation=35)
def _bottle(s: Sketch) -> None:
    s.dark(rectangle(0.4, 0.0, 0.6, 0.1))
    s.body(
        [(0.41, 0.1), (0.59, 0.1), (0.59, 0.32), (0.74, 0.46), (0.74, 1.0), (0.26, 1.0), (0.26, 0.46), (0.41, 0.32)],
    )
    s.light(rectangle(0.26, 0.6, 0.74, 0.8))


@_kind(rotation=60)
def _key(s: Sketch) -> None:
    s.body(
        ellipse(0.22, 0.5, 0.22),
        rectangle(0.38, 0.43, 1.0, 0.57),
        rectangle(0.68, 0.5, 0.78, 0.75),
        rectangle(0.87, 0.5, 0.98, 0.79),
    )
    s.hole(ellipse(0.2, 0.5, 0.09))


@_kind(rotation=20)
def _umbrella(s: Sketch) -> None:
    s.dark(rectangle(0.47, 0.0, 0.53, 0.86), arc(0.41, 0.86, 0.09, 0, 180, 0.06))
    s.body(
        ellipse(0.5, 0.54, 0.5, 0.48, start=180, end=360)
        + [(0.917, 0.47), (0.833, 0.54), (0.75, 0.47), (0.667, 0.54), (0.583, 0.47), (0.5, 0.54)]
        + [(0.417, 0.47), (0.333, 0.54), (0.25, 0.47), (0.167, 0.54), (0.083, 0.47)]
    )


@_kind(rotation=15)
def _book(s: Sketch) -> None:
    s.body(
        [(0.5, 0.26), (0.3, 0.14), (0.0, 0.18), (0.0, 0.8), (0.3, 0.76), (0.5, 0.88)],
        [(0.5, 0.26), (0.7, 0.14), (1.0, 0.18), (1.0, 0.8), (0.7, 0.76), (0.5, 0.88)],
    )
    s.dark(bar(0.5, 0.24, 0.5, 0.88, 0.05))
    for y in (0.34, 0.48, 0.62):
        s.light(bar(0.1, y - 0.02, 0.38, y + 0.05, 0.055), bar(0.9, y - 0.02, 0.62, y + 0.05, 0.055))


@_kind(rotation=20)
def _clock(s: Sketch) -> None:
    s.shade(ellipse(0.22, 0.16, 0.16), ellipse(0.78, 0.16, 0.16))
    s.dark(bar(0.3, 0.8, 0.16, 1.0, 0.09), bar(0.7, 0.8, 0.84, 1.0, 0.09))
    s.body(ellipse(0.5, 0.54, 0.42))
    s.light(bar(0.5, 0.56, 0.5, 0.24, 0.075), bar(0.48, 0.54, 0.72, 0.62, 0.075))


@_kind(rotation=50)
def _hammer(s: Sketch) -> None:
    s.shade(rectangle(0.43, 0.26, 0.57, 1.0))
    s.body([(0.12, 0.06), (0.7, 0.06), (0.98, 0.22), (1.0, 0.34), (0.7, 0.32), (0.12, 0.34)])
    s.body(rectangle(0.02, 0.02, 0.14, 0.38))


@_kind(rotation=50)
def _fork(s: Sketch) -> None:
    s.body(
        rectangle(0.28, 0.0, 0.38, 0.36),
        rectangle(0.45, 0.0, 0.55, 0.36),
        rectangle(0.62, 0.0, 0.72, 0.36),
        rectangle(0.28, 0.3, 0.72, 0.46),
        rectangle(0.43, 0.42, 0.57, 1.0),
    )


@_kind(rotation=15)
def _chair(s: Sketch) -> None:
    s.body(rectangle(0.14, 0.0, 0.3, 1.0), rectangle(0.14, 0.5, 0.86, 0.66), rectangle(0.72, 0.5, 0.86, 1.0))
    s.shade(rectangle(0.3, 0.08, 0.4, 0.4))


@_kind(rotation=15)
def _table(s: Sketch) -> None:
    s.body(
        [(0.14, 0.2), (0.86, 0.2), (1.0, 0.42), (0.0, 0.42)],
        rectangle(0.04, 0.4, 0.15, 0.88),
        rectangle(0.85, 0.4, 0.96, 0.88),
    )
    s.shade(rectangle(0.26, 0.42, 0.34, 0.74), rectangle(0.66, 0.42, 0.74, 0.74))


@_kind(rotation=20)
def _lamp(s: Sketch) -> None:
    s.shade(rectangle(0.46, 0.48, 0.54, 0.9))
    s.body([(0.34, 0.0), (0.66, 0.0), (0.88, 0.52), (0.12, 0.52)], ellipse(0.5, 0.99, 0.28, 0.17, start=180, end=360))


@_kind(rotation=25)
def _bell(s: Sketch) -> None:
    s.dark(ellipse(0.5, 0.88, 0.11), ellipse(0.5, 0.07, 0.07))
    s.body(
        [(0.5, 0.06), (0.66, 0.12), (0.76, 0.28), (0.8, 0.58), (0.94, 0.74), (0.94, 0.84)]
        + [(0.06, 0.84), (0.06, 0.74), (0.2, 0.58), (0.24, 0.28), (0.34, 0.12)]
    )
    s.shade(rectangle(0.06, 0.74, 0.94, 0.84))


@_kind(rotation=20)
def _flag(s: Sketch) -> None:
    s.dark(rectangle(0.06, 0.0, 0.14, 1.0))
    top = [(0.14 + 0.82 * t / 8, 0.06 + 0.06 * math.sin(2 * math.pi * t / 8)) for t in range(9)]
    s.body(top + [(x, y + 0.5) for x, y in reversed(top)])


@_kind(rotation=60)
def _leaf(s: Sketch) -> None:
    s.dark(bar(0.5, 0.8, 0.5, 1.0, 0.06))
    right = [(0.5, 0.0), (0.66, 0.14), (0.78, 0.34), (0.79, 0.52), (0.7, 0.72), (0.5, 0.88)]
    s.body(right + mirrored(right)[::-1])
    s.dark(bar(0.5, 0.2, 0.5, 0.86, 0.035))
    for y in (0.42, 0.6):
        s.dark(bar(0.5, y + 0.08, 0.66, y - 0.04, 0.03), bar(0.5, y + 0.08, 0.34, y - 0.04, 0.03))


@_kind(rotation=30)
def _ring(s: Sketch) -> None:
    s.body(ellipse(0.5, 0.62, 0.38))
    s.hole(ellipse(0.5, 0.62, 0.22))
    s.light([(0.32, 0.13), (0.42, 0.0), (0.58, 0.0), (0.68, 0.13), (0.5, 0.32)])


@_kind(rotation=180)
def _gear(s: Sketch) -> None:
    s.body(teeth(0.5, 0.5, 0.5, 0.37, 8))
    s.hole(ellipse(0.5, 0.5, 0.15))


@_kind(rotation=20)
def _bolt(s: Sketch) -> None:
    s.body([(0.58, 0.0), (0.2, 0.56), (0.46, 0.56), (0.34, 1.0), (0.84, 0.38), (0.56, 0.38), (0.78, 0.0)])


@_kind(rotation=70, min_size=22)
def _pencil(s: Sketch) -> None:
    s.shade(rectangle(0.0, 0.36, 0.12, 0.64))
    s.body(rectangle(0.14, 0.36, 0.74, 0.64))
    s.light([(0.74, 0.36), (0.74, 0.64), (1.0, 0.5)])
    s.dark([(0.9, 0.445), (0.9, 0.555), (1.0, 0.5)], rectangle(0.11, 0.36, 0.15, 0.64))


@_kind(rotation=20)
def _hat(s: Sketch) -> None:
    s.body(rectangle(0.22, 0.08, 0.78, 0.78), ellipse(0.5, 0.82, 0.5, 0.12))
    s.dark(rectangle(0.22, 0.6, 0.78, 0.72))


@_kind(rotation=20)
def _crown(s: Sketch) -> None:
    s.body([(0.06, 0.9), (0.0, 0.28), (0.26, 0.52), (0.5, 0.12), (0.74, 0.52), (1.0, 0.28), (0.94, 0.9)])
    s.body(ellipse(0.03, 0.24, 0.065), ellipse(0.5, 0.1, 0.07), ellipse(0.97, 0.24, 0.065))
    s.dark(rectangle(0.06, 0.74, 0.94, 0.8))


@_kind(rotation=35)
def _kite(s: Sketch) -> None:
    s.dark(bar(0.5, 0.68, 0.4, 0.84, 0.035), bar(0.4, 0.84, 0.56, 0.98, 0.035))
    s.body([(0.5, 0.0), (0.86, 0.28), (0.5, 0.72), (0.14, 0.28)])
    s.dark(bar(0.5, 0.0, 0.5, 0.72, 0.035), bar(0.14, 0.28, 0.86, 0.28, 0.035))
    s.shade(spikes(0.43, 0.84, 0.09, 0.04, 2, start=0), spikes(0.56, 0.96, 0.09, 0.04, 2, start=0))


@_kind(rotation=25)
def _ladder(s: Sketch) -> None:
    s.body(rectangle(0.2, 0.0, 0.33, 1.0), rectangle(0.67, 0.0, 0.8, 1.0))
    for y in (0.1, 0.37, 0.64, 0.87):
        s.body(rectangle(0.3, y - 0.05, 0.7, y + 0.06))


@_kind(rotation=20)
def _envelope(s: Sketch) -> None:
    s.body(rectangle(0.0, 0.17, 1.0, 0.83))
    s.dark(bar(0.0, 0.19, 0.52, 0.56, 0.055), bar(1.0, 0.19, 0.48, 0.56, 0.055))
