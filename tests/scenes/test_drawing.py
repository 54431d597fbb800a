"""The kinds, colours and textures: enough of them, drawn tightly, and each thing mostly of its colour."""

import colorsys

import numpy as np
import pytest

from maskrcnn_benchmark.scenes.backgrounds import background
from maskrcnn_benchmark.scenes.kinds import KINDS
from maskrcnn_benchmark.scenes.palette import ALL_PAIRS, COLORS, NOVEL_PAIRS, SEEN_PAIRS
from maskrcnn_benchmark.scenes.render import TEXTURES, Appearance, Sprite, draw
from maskrcnn_benchmark.scenes.rng import SceneRandom


def sprite(
    kind: str, color: str = "red", *, size: float = 60.0, texture: str = "plain", rotation: float = 0.0
) -> Sprite:
    return draw(Appearance(kind, COLORS[color], texture, size, rotation, False, (0, 0, 0), (0.2, 0.3, 0.4)))


def test_there_is_enough_to_draw():
    assert len(KINDS) >= 40
    assert len(COLORS) == 12
    assert len(TEXTURES) >= 4


def test_every_colour_and_every_kind_is_seen_and_withheld_equally_often():
    assert set(SEEN_PAIRS) | NOVEL_PAIRS == set(ALL_PAIRS)
    assert not set(SEEN_PAIRS) & NOVEL_PAIRS
    assert {kind: sum(pair[1] == kind for pair in NOVEL_PAIRS) for kind in KINDS} == dict.fromkeys(KINDS, 2)
    assert {color: sum(pair[0] == color for pair in NOVEL_PAIRS) for color in COLORS} == dict.fromkeys(COLORS, 8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [18.0, 60.0, 150.0])
def test_longer_side_is_the_size_asked_for(kind, size):
    for rotation in (0.0, 33.0, -71.0):
        height, width = sprite(kind, size=size, rotation=rotation).solid.shape
        assert abs(max(height, width) - size) <= max(2.0, 0.03 * size)


@pytest.mark.parametrize("kind", KINDS)
def test_sprite_is_tight(kind):
    solid = sprite(kind, rotation=17.0).solid
    assert solid[0].any() and solid[-1].any() and solid[:, 0].any() and solid[:, -1].any()


def share_near(pixels: np.ndarray, color: tuple[float, float, float]) -> float:
    """Share of pixels (n, 3) that are this colour, but for rounding and anti-aliasing."""
    return float((np.abs(pixels - np.array(color)).max(axis=1) < 12).mean())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texture", TEXTURES)
def test_own_colour_dominates(kind, texture):
    """In every colour a thing is over 40 % body (else outline and accents), and the texture is not most of that."""
    for name, look in COLORS.items():
        drawn = sprite(kind, name, texture=texture, size=64.0)
        pixels = (drawn.rgb / drawn.alpha[:, :, None].clip(1e-6))[drawn.solid]
        body, texture_share = share_near(pixels, look.body), share_near(pixels, look.texture)
        shade = share_near(pixels, look.shade)
        assert body + texture_share + shade >= 0.4
        assert body + shade >= 0.7 * texture_share


def test_textures_and_shades_keep_the_hue():
    for look in COLORS.values():
        hues = [colorsys.rgb_to_hsv(*(value / 255 for value in rgb)) for rgb in (look.body, look.texture, look.shade)]
        if hues[0][1] > 0.2:
            assert max(hue for hue, _, _ in hues) - min(hue for hue, _, _ in hues) < 0.02
        else:
            assert max(saturation for _, saturation, _ in hues) < 0.12


def test_kinds_have_distinct_silhouettes():
    """At 24 pixels the silhouettes of any two kinds differ in at least a twentieth of the square."""
    masks = {}
    for kind in KINDS:
        solid = sprite(kind, size=24.0).solid
        square = np.zeros((28, 28), dtype=bool)
        top, left = (28 - solid.shape[0]) // 2, (28 - solid.shape[1]) // 2
        square[top : top + solid.shape[0], left : left + solid.shape[1]] = solid
        masks[kind] = square
    names = list(masks)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert (masks[one] ^ masks[other]).mean() >= 0.05, (one, other)


@pytest.mark.parametrize("texture", [name for name in TEXTURES if name != "plain"])
def test_texture_changes_the_body(texture):
    plain, textured = sprite("ball"), sprite("ball", texture=texture)
    changed = np.abs(plain.rgb - textured.rgb).max(axis=2) > 20
    assert 0.1 < changed[plain.solid].mean() < 0.65


def test_backgrounds_differ_and_have_the_size_asked_for():
    first, second = (background(64, 48, SceneRandom(key)) for key in ("a", "b"))
    assert first.shape == (48, 64, 3)
    assert np.abs(first - second).mean() > 1
