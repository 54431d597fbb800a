"""The twelve colours, and the colour-kind pairs that are kept away from training (the ``novel`` pairs)."""

from dataclasses import dataclass

from maskrcnn_benchmark.scenes.kinds import KINDS

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Color:
    """body is the named colour; texture, shade, dark and light are what the other roles of a drawing use with it."""

    name: str
    body: RGB
    texture: RGB
    shade: RGB
    dark: RGB
    light: RGB


def _mix(color: RGB, other: RGB, amount: float) -> RGB:
    return tuple((1 - amount) * a + amount * b for a, b in zip(color, other, strict=True))  # type: ignore[return-value]


_WHITE: RGB = (255, 255, 255)
_BLACK: RGB = (0, 0, 0)
_INK: RGB = (24, 22, 30)


def _color(
    name: str,
    body: RGB,
    *,
    texture: tuple[RGB, float] = (_WHITE, 0.55),
    shade: tuple[RGB, float] = (_BLACK, 0.25),
    dark: RGB = _INK,
    light: RGB = (250, 250, 250),
) -> Color:
    """texture and shade are given as what is mixed into the body colour, and how much of it."""
    return Color(name, body, _mix(body, *texture), _mix(body, *shade), dark, light)


COLORS: dict[str, Color] = {
    color.name: color
    for color in (
        _color("red", (212, 30, 36)),
        _color("orange", (246, 128, 16)),
        _color("yellow", (250, 220, 40), texture=(_BLACK, 0.27)),
        _color("green", (36, 150, 54)),
        _color("cyan", (40, 208, 216)),
        _color("blue", (36, 72, 214)),
        _color("purple", (128, 44, 176)),
        _color("pink", (250, 136, 192)),
        _color("brown", (122, 72, 32)),
        _color("black", (34, 34, 38), shade=(_WHITE, 0.25), dark=(205, 205, 205)),
        _color("white", (246, 246, 246), texture=(_BLACK, 0.16), light=(178, 184, 196)),
        _color("gray", (132, 134, 138), texture=(_BLACK, 0.27)),
    )
}

Pair = tuple[str, str]
"""(colour name, kind name)"""


def pair_name(pair: Pair) -> str:
    return f"{pair[0]} {pair[1]}"


def _novel_pairs() -> frozenset[Pair]:
    """Two opposite colours of the palette per kind, moving on from kind to kind: every colour is novel for 8 kinds."""
    names = list(COLORS)
    return frozenset((names[(5 * i + step) % len(names)], kind) for i, kind in enumerate(KINDS) for step in (0, 6))


NOVEL_PAIRS: frozenset[Pair] = _novel_pairs()
ALL_PAIRS: tuple[Pair, ...] = tuple((color, kind) for kind in KINDS for color in COLORS)
SEEN_PAIRS: tuple[Pair, ...] = tuple(pair for pair in ALL_PAIRS if pair not in NOVEL_PAIRS)
