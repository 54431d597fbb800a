"""Closed outlines in the unit square (x to the right, y down), from which the kinds of things are drawn."""

import math

Point = tuple[float, float]
Outline = list[Point]


def rectangle(left: float, top: float, right: float, bottom: float) -> Outline:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def ellipse(
    x: float, y: float, rx: float, ry: float | None = None, start: float = 0.0, end: float = 360.0, tilt: float = 0.0
) -> Outline:
    """An ellipse, or its sector cut along the chord when start and end (degrees, clockwise from +x) are given."""
    ry = rx if ry is None else ry
    steps = max(6, round((end - start) / 12))
    points = steps if end - start >= 360 else steps + 1
    cos, sin = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
    outline = []
    for step in range(points):
        angle = math.radians(start + (end - start) * step / steps)
        dx, dy = rx * math.cos(angle), ry * math.sin(angle)
        outline.append((x + dx * cos - dy * sin, y + dx * sin + dy * cos))
    return outline


def bar(x0: float, y0: float, x1: float, y1: float, width: float) -> Outline:
    """A straight stroke of the given width from (x0, y0) to (x1, y1), with flat ends."""
    length = math.hypot(x1 - x0, y1 - y0)
    nx, ny = -(y1 - y0) / length * width / 2, (x1 - x0) / length * width / 2
    return [(x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny)]


def arc(x: float, y: float, radius: float, start: float, end: float, width: float) -> Outline:
    """A curved stroke: the part of a ring between two angles (degrees, clockwise from +x)."""
    outer = ellipse(x, y, radius + width / 2, start=start, end=end)
    inner = ellipse(x, y, radius - width / 2, start=start, end=end)
    return outer + inner[::-1]


def spikes(x: float, y: float, outer: float, inner: float, count: int, start: float = -90.0) -> Outline:
    """A star with ``count`` points that alternates between two radii."""
    outline = []
    for step in range(2 * count):
        radius = inner if step % 2 else outer
        angle = math.radians(start + 180.0 * step / count)
        outline.append((x + radius * math.cos(angle), y + radius * math.sin(angle)))
    return outline


def teeth(x: float, y: float, outer: float, inner: float, count: int) -> Outline:
    """A cog wheel without its hole: ``count`` trapezoid teeth."""
    outline = []
    for tooth in range(count):
        for offset, radius in ((-0.30, inner), (-0.18, outer), (0.18, outer), (0.30, inner)):
            angle = 2 * math.pi * (tooth + offset) / count
            outline.append((x + radius * math.cos(angle), y + radius * math.sin(angle)))
    return outline


def mirrored(outline: Outline, axis: float = 0.5) -> Outline:
    """The outline reflected at the vertical line x = axis."""
    return [(2 * axis - x, y) for x, y in outline]
