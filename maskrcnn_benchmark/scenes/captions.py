"""Texts about a scene, with the character span of every phrase and the things it names."""

from collections.abc import Callable, Sequence

from maskrcnn_benchmark.scenes.kinds import KINDS
from maskrcnn_benchmark.scenes.palette import ALL_PAIRS, SEEN_PAIRS, Pair, pair_name
from maskrcnn_benchmark.scenes.rng import SceneRandom
from maskrcnn_benchmark.scenes.scene import Caption, Scene, SceneObject

MIN_CONFUSABLE = 2
"""Each phrase of an evaluation sentence has at least this many things of its kind in other colours around."""

_MIN_OFFSET = 30.0
_MAX_LIST_ITEMS = 26


def _left_of(a: SceneObject, b: SceneObject) -> bool:
    dx, dy = b.center[0] - a.center[0], b.center[1] - a.center[1]
    return dx >= _MIN_OFFSET and dx >= abs(dy)


def _above(a: SceneObject, b: SceneObject) -> bool:
    dx, dy = b.center[0] - a.center[0], b.center[1] - a.center[1]
    return dy >= _MIN_OFFSET and dy >= abs(dx)


def _next_to(a: SceneObject, b: SceneObject) -> bool:
    (ax, ay, aw, ah), (bx, by, bw, bh) = a.bbox, b.bbox
    gap_x = max(ax, bx) - min(ax + aw, bx + bw)
    gap_y = max(ay, by) - min(ay + ah, by + bh)
    return max(gap_x, gap_y) <= 25


RELATIONS: dict[str, Callable[[SceneObject, SceneObject], bool]] = {
    "left of": _left_of,
    "to the left of": _left_of,
    "right of": lambda a, b: _left_of(b, a),
    "to the right of": lambda a, b: _left_of(b, a),
    "above": _above,
    "over": _above,
    "below": lambda a, b: _above(b, a),
    "under": lambda a, b: _above(b, a),
    "next to": _next_to,
}
"""Relation words, and whether they hold between the full boxes of two things (a is <relation> b)."""

_CLAUSES = (
    "{a} {relation} {b}",
    "{a} is {relation} {b}",
    "there is {a} {relation} {b}",
    "{a} sits {relation} {b}",
    "find {a} {relation} {b}",
    "{relation} {b} is {a}",
)
_CONNECTIVES = (" and ", ", and ", " while ", ". ", "; ")
_LIST_OPENINGS = ("", "a picture of ", "a scene with ", "here are ", "can you see ")


class _Text:
    """Builds a caption piece by piece and remembers where each phrase lies."""

    def __init__(self) -> None:
        self.text = ""
        self.phrases: list[tuple[tuple[int, int], list[int]]] = []

    def add(self, words: str) -> None:
        self.text += words

    def add_phrase(self, words: str, objects: list[int]) -> int:
        begin = len(self.text)
        self.text += words
        self.phrases.append(((begin, len(self.text)), objects))
        return len(self.phrases) - 1


def matches(item: SceneObject, color: str, kind: str, size: str | None, texture: str | None) -> bool:
    return (
        item.color == color
        and item.kind == kind
        and (size is None or item.size_word == size)
        and (texture is None or item.texture == texture)
    )


def _noun_phrase(scene: Scene, index: int, rng: SceneRandom) -> str | None:
    """Words that name this thing and no other of the scene, or None if colour, kind, size and texture do not tell."""
    one = scene.objects[index]
    sizes: list[str | None] = [None] if one.size_word == "medium" else [None, one.size_word]
    textures: list[str | None] = [None] if one.size_word == "small" else [None, one.texture]
    options = [
        (size, texture)
        for size in sizes
        for texture in textures
        if sum(matches(item, one.color, one.kind, size, texture) for item in scene.objects) == 1
    ]
    if not options:
        return None
    size, texture = options[0] if rng.chance(0.55) else rng.choice(options)
    words = " ".join(word for word in (size, texture, one.color, one.kind) if word)
    if rng.chance(0.5):
        return f"the {words}"
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _relation(scene: Scene, a: int, b: int, rng: SceneRandom) -> str | None:
    true = [name for name, holds in RELATIONS.items() if holds(scene.objects[a], scene.objects[b])]
    return rng.choice(true) if true else None


def sentence(scene: Scene, rng: SceneRandom, *, min_confusable: int = 0, max_phrases: int = 4) -> Caption | None:
    """A sentence of up to ``max_phrases`` phrases, each with exactly one referent; None if nothing can be named."""
    named: list[tuple[int, str]] = []
    order = rng.shuffled(range(len(scene.objects)))
    order.sort(key=lambda index: -min(scene.confusable_count(index), MIN_CONFUSABLE))  # stable: confusable ones first
    for index in order:
        words = _noun_phrase(scene, index, rng) if scene.confusable_count(index) >= min_confusable else None
        if words is not None:
            named.append((index, words))
    named = rng.shuffled(named[: rng.integer(min(2, max_phrases), max_phrases)])
    if not named:
        return None
    build = _Text()
    relations: list[tuple[int, str, int]] = []
    if rng.chance(0.2):
        _enumerate(build, named, rng)
    else:
        _relate(build, relations, scene, named, rng)
    if rng.chance(0.5):
        build.add(".")
    return Caption(build.text, "sentence", build.phrases, relations)


def _enumerate(build: _Text, named: Sequence[tuple[int, str]], rng: SceneRandom) -> None:
    build.add(rng.choice(_LIST_OPENINGS))
    for position, (index, words) in enumerate(named):
        if position:
            build.add(" and " if position == len(named) - 1 else ", ")
        build.add_phrase(words, [index])


def _relate(
    build: _Text,
    relations: list[tuple[int, str, int]],
    scene: Scene,
    named: list[tuple[int, str]],
    rng: SceneRandom,
) -> None:
    """Clauses of two related things each; a thing for which no relation holds is only mentioned."""
    rest = list(named)
    while rest:
        if build.text:
            build.add(rng.choice(_CONNECTIVES))
        index, words = rest.pop(0)
        partner = next(
            ((other, relation) for other in rest if (relation := _relation(scene, index, other[0], rng))), None
        )
        if partner is None:
            if rng.chance(0.5):
                build.add("there is ")
            build.add_phrase(words, [index])
            continue
        (other_index, other_words), relation = partner
        rest.remove((other_index, other_words))
        spots: dict[str, int] = {}
        for piece in (
            rng.choice(_CLAUSES).replace("{relation}", relation).replace("{", "|{").replace("}", "}|").split("|")
        ):
            if piece == "{a}":
                spots["a"] = build.add_phrase(words, [index])
            elif piece == "{b}":
                spots["b"] = build.add_phrase(other_words, [other_index])
            else:
                build.add(piece)
        relations.append((spots["a"], relation, spots["b"]))


def pair_list(scene: Scene, rng: SceneRandom) -> Caption:
    """All pairs of the scene and some absent ones that are easily confused with them, in random order."""
    present = scene.pairs()
    allowed = ALL_PAIRS if scene.split == "novel" else SEEN_PAIRS
    colors, kinds = {color for color, _ in present}, {kind for _, kind in present}
    near = [pair for pair in allowed if pair not in present and (pair[1] in kinds or pair[0] in colors)]
    count = min(rng.integer(3, 12), max(0, _MAX_LIST_ITEMS - len(present)))
    same_kind = [pair for pair in near if pair[1] in kinds]
    same_color = [pair for pair in near if pair[1] not in kinds]
    negatives = rng.sample(same_kind, (count + 1) // 2) + rng.sample(same_color, count // 2)
    build = _Text()
    pairs: list[Pair] = rng.shuffled([*present, *negatives])
    for position, pair in enumerate(pairs):
        if position:
            build.add(". ")
        build.add_phrase(pair_name(pair), [i for i, item in enumerate(scene.objects) if item.pair == pair])
    build.add(".")
    return Caption(build.text, "list", build.phrases)


def kind_list(scene: Scene, rng: SceneRandom) -> Caption:
    """All kinds of the scene and some absent ones, in random order: a detection prompt of changing length."""
    present = sorted({item.kind for item in scene.objects})
    absent = [kind for kind in KINDS if kind not in present]
    build = _Text()
    for position, kind in enumerate(rng.shuffled([*present, *rng.sample(absent, rng.integer(1, 16))])):
        if position:
            build.add(". ")
        build.add_phrase(kind, [i for i, item in enumerate(scene.objects) if item.kind == kind])
    if rng.chance(0.5):
        build.add(".")
    return Caption(build.text, "kinds", build.phrases)
