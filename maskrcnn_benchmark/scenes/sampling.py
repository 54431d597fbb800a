"""Decides what stands in a scene: which kinds, in which colours, sizes and textures, before anything is placed."""

from dataclasses import dataclass

from maskrcnn_benchmark.scenes.kinds import KINDS
from maskrcnn_benchmark.scenes.palette import COLORS, NOVEL_PAIRS
from maskrcnn_benchmark.scenes.render import TEXTURES
from maskrcnn_benchmark.scenes.rng import SceneRandom

SPLITS = ("train", "val", "novel")
SIZE_WORDS = ("small", "medium", "large")
# Longer side in pixels. The gaps between the ranges keep the words true at a glance.
_SIZE_RANGES = {"small": (18.0, 31.0), "medium": (42.0, 80.0), "large": (104.0, 160.0)}
_SIZE_WEIGHTS = (0.33, 0.45, 0.22)
NUM_OBJECTS = {"train": (8, 24), "val": (5, 15), "novel": (5, 15)}
"""Fewest and most things of a scene. Training scenes are fuller: they teach more for the price of a picture."""


@dataclass(frozen=True)
class Wish:
    """One thing to draw; size is its longer side in pixels."""

    kind: str
    color: str
    size_word: str
    size: float
    texture: str


def _colors_for(kind: str, *, novel: bool) -> list[str]:
    return [color for color in COLORS if ((color, kind) in NOVEL_PAIRS) == novel]


def _wish(kind: str, color: str, rng: SceneRandom, size_word: str | None = None) -> Wish:
    word = size_word or rng.weighted(SIZE_WORDS, _SIZE_WEIGHTS)
    low, high = _SIZE_RANGES[word]
    if word == "small":
        low = max(KINDS[kind].min_size, low)
    texture = "plain" if word == "small" else rng.weighted(TEXTURES, (0.55, 0.15, 0.15, 0.15))
    return Wish(kind, color, word, rng.uniform(low, high), texture)


def _group(kind: str, split: str, rng: SceneRandom, count: int) -> list[Wish]:
    """``count`` things of one kind, all of different colours."""
    colors = rng.sample(_colors_for(kind, novel=False), count)
    if split == "novel":
        unseen = _colors_for(kind, novel=True)
        colors[: len(unseen)] = unseen
    return [_wish(kind, color, rng) for color in colors]


def sample_wishes(split: str, rng: SceneRandom) -> list[Wish]:
    """Wishes for a scene: all of val and novel, and most of train, hold groups of one kind in different colours.

    In a novel scene the groups use the withheld pairs beside seen ones.
    """
    count = rng.integer(*NUM_OBJECTS[split])
    kinds = rng.shuffled(list(KINDS))
    wishes: list[Wish] = []
    groups = rng.integer(1, max(1, count // 4))
    if split == "train" and rng.chance(0.25):
        groups = 0
    for _ in range(groups):
        wishes += _group(kinds.pop(), split, rng, rng.integer(3, 4))
    wishes = wishes[: max(count, 3)]
    grouped = len(wishes)
    while len(wishes) < count:
        if len(wishes) > grouped and rng.chance(0.18):  # the same pair again, in another size
            twin = rng.choice(wishes[grouped:])
            words = [word for word in SIZE_WORDS if word != twin.size_word]
            wishes.append(_wish(twin.kind, twin.color, rng, rng.choice(words)))
            continue
        kind = rng.choice(kinds)
        novel = split == "novel" and rng.chance(0.4)
        wishes.append(_wish(kind, rng.choice(_colors_for(kind, novel=novel)), rng))
    return rng.shuffled(wishes)
