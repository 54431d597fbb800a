"""Captions: spans select the phrases, phrases name what they say, relations are true, lists are complete."""

import pytest

from maskrcnn_benchmark.scenes import COLORS, KINDS, NOVEL_PAIRS, generate_scene
from maskrcnn_benchmark.scenes.captions import RELATIONS, matches
from maskrcnn_benchmark.scenes.render import TEXTURES
from maskrcnn_benchmark.scenes.sampling import SIZE_WORDS, SPLITS
from maskrcnn_benchmark.scenes.scene import SceneObject

SAMPLE = 40


@pytest.fixture(scope="module", params=SPLITS)
def captions(request):
    """(split, [(scene, caption), ...])"""
    scenes = [generate_scene(23, request.param, index)[1] for index in range(SAMPLE)]
    return request.param, [(scene, caption) for scene in scenes for caption in scene.captions]


def read_phrase(words: str) -> dict[str, str | None]:
    """The colour, kind, size and texture that a noun phrase states."""
    found: dict[str, str | None] = {"color": None, "kind": None, "size": None, "texture": None}
    for word in words.split():
        if word in SIZE_WORDS:
            found["size"] = word
        elif word in TEXTURES:
            found["texture"] = word
        elif word in COLORS:
            found["color"] = word
        elif word in KINDS:
            found["kind"] = word
        else:
            assert word in ("the", "a", "an"), words
    return found


def test_phrases_name_exactly_what_they_are_linked_to(captions):
    for scene, caption in captions[1]:
        for (begin, end), named in caption.phrases:
            stated = read_phrase(caption.text[begin:end])
            assert stated["kind"], caption.text
            if caption.caption_type == "kinds":
                assert named == [i for i, item in enumerate(scene.objects) if item.kind == stated["kind"]]
                continue
            assert stated["color"], caption.text
            assert named == [i for i, item in enumerate(scene.objects) if matches(item, **stated)]


def test_sentence_phrases_are_unique_and_confusable(captions):
    split, texts = captions
    seen = 0
    for scene, caption in texts:
        if caption.caption_type != "sentence":
            continue
        seen += 1
        assert 1 <= len(caption.phrases) <= 4
        for _, named in caption.phrases:
            assert len(named) == 1
            if split != "train":
                assert scene.confusable_count(named[0]) >= 2
    assert seen


def test_phrases_do_not_overlap(captions):
    for _, caption in captions[1]:
        spans = sorted(span for span, _ in caption.phrases)
        assert all(first[1] < second[0] for first, second in zip(spans, spans[1:], strict=False))


def test_relations_are_true_of_the_boxes(captions):
    """Checked against the words themselves, not through the predicates that chose them."""
    checked = 0
    for scene, caption in captions[1]:
        for a, relation, b in caption.relations:
            (one,), (other,) = caption.phrases[a][1], caption.phrases[b][1]
            (x1, y1), (x2, y2) = scene.objects[one].center, scene.objects[other].center
            assert relation in caption.text
            if "left" in relation:
                assert x1 < x2
            elif "right" in relation:
                assert x1 > x2
            elif relation in ("above", "over"):
                assert y1 < y2
            elif relation in ("below", "under"):
                assert y1 > y2
            else:
                assert relation == "next to"
            checked += 1
    assert checked > SAMPLE / 4


def test_lists_hold_every_pair_and_some_absent_ones(captions):
    split, texts = captions
    lists = [(scene, caption) for scene, caption in texts if caption.caption_type == "list"]
    assert bool(lists) == (split != "val")
    for scene, caption in lists:
        listed = [tuple(caption.text[begin:end].split()) for (begin, end), _ in caption.phrases]
        absent = [pair for pair, (_, named) in zip(listed, caption.phrases, strict=True) if not named]
        assert len(set(listed)) == len(listed)
        assert set(scene.pairs()) <= set(listed)
        assert len(absent) >= 3
        assert caption.text == ". ".join(" ".join(pair) for pair in listed) + "."
        if split == "train":
            assert not NOVEL_PAIRS.intersection(listed)


def test_kind_lists_hold_every_kind_and_some_absent_ones(captions):
    split, texts = captions
    lists = [(scene, caption) for scene, caption in texts if caption.caption_type == "kinds"]
    assert bool(lists) == (split == "train")
    for scene, caption in lists:
        listed = [caption.text[begin:end] for (begin, end), _ in caption.phrases]
        assert len(set(listed)) == len(listed) and set(listed) <= set(KINDS)
        named = {kind for kind, (_, things) in zip(listed, caption.phrases, strict=True) if things}
        assert named == {item.kind for item in scene.objects} != set(listed)
        assert caption.text.removesuffix(".") == ". ".join(listed)


def _thing(x: int, y: int, w: int = 20, h: int = 20) -> SceneObject:
    return SceneObject("star", "red", "small", "plain", 0.0, (x, y, w, h))


@pytest.mark.parametrize(
    ("relation", "a", "b", "holds"),
    [
        ("left of", (0, 0), (100, 20), True),
        ("left of", (0, 0), (20, 0), False),  # too close to call
        ("left of", (0, 0), (100, 150), False),  # rather above
        ("right of", (100, 20), (0, 0), True),
        ("above", (0, 0), (10, 100), True),
        ("below", (0, 0), (10, 100), False),
        ("under", (10, 100), (0, 0), True),
        ("next to", (0, 0), (40, 0), True),
        ("next to", (0, 0), (60, 0), False),
    ],
)
def test_relation(relation, a, b, holds):
    assert RELATIONS[relation](_thing(*a), _thing(*b)) is holds
