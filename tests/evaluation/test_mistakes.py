"""Mistakes of two images, counted by hand."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from maskrcnn_benchmark.evaluation.mistakes import (
    NOTHING,
    JudgedImage,
    best_threshold,
    confused_names,
    confusions,
    find_mistakes,
    judge,
    pairwise_overlaps,
)

A, B, C, D = [0, 0, 20, 20], [40, 40, 60, 60], [60, 0, 80, 20], [0, 60, 20, 80]


def image(truth, found, title="picture") -> JudgedImage:
    found = sorted(found, key=lambda row: -row[2])
    return JudgedImage(
        title,
        Path(f"{title}.jpg"),
        np.array([box for box, _ in truth], dtype=float).reshape(-1, 4),
        [name for _, name in truth],
        np.array([box for box, _, _ in found], dtype=float).reshape(-1, 4),
        np.array([score for _, _, score in found]),
        [name for _, name, _ in found],
    )


# cat found twice; dog taken for a wolf; bird missed; a wolf where nothing is; cat beside the other cat found.
FIRST = image(
    [(A, "cat"), (B, "dog"), (C, "bird")],
    [(A, "cat", 0.9), (A, "cat", 0.8), (B, "wolf", 0.7), (D, "wolf", 0.6)],
    "first",
)
SECOND = image([(A, "cat"), ([5, 0, 25, 20], "cat")], [(A, "cat", 0.95), ([4, 0, 24, 20], "cat", 0.5)], "second")
EMPTY = image([], [], "empty")


def test_verdicts():
    verdict = judge(FIRST)
    assert verdict.is_right.tolist() == [True, False, False, False]
    assert verdict.is_found.tolist() == [True, False, False]
    assert verdict.errors == 5 and verdict.f1 == pytest.approx(2 / 7)
    assert judge(SECOND).f1 == 1.0, "each thing is found by its own box, though they overlap"
    assert judge(EMPTY).f1 == 1.0


def test_confusions():
    counts = confusions(FIRST, judge(FIRST))
    assert counts == Counter(
        {("cat", "cat"): 1, ("dog", "wolf"): 1, ("bird", NOTHING): 1, (NOTHING, "cat"): 1, (NOTHING, "wolf"): 1}
    )
    assert confused_names(counts, 2) == ["wolf", "dog"], "names taken for each other come first"
    assert set(confused_names(counts, 9)) == {"wolf", "dog", "cat", "bird"}


def test_threshold_with_the_best_f1():
    scores, is_right = np.array([0.95, 0.9, 0.8, 0.7, 0.6, 0.5]), np.array([1, 1, 0, 0, 0, 1], dtype=bool)
    assert best_threshold(scores, is_right, 5) == (0.9, pytest.approx(4 / 7))
    assert best_threshold(np.zeros(0), np.zeros(0, dtype=bool), 3) == (0.5, 0.0)


def test_worst_images_come_first():
    mistakes = find_mistakes([SECOND, FIRST, EMPTY])
    assert (mistakes.threshold, mistakes.f1) == (0.9, pytest.approx(4 / 7))
    assert [found.title for found, _ in mistakes.worst] == ["first", "second"], "one without mistakes is left out"
    assert [len(found.names) for found, _ in mistakes.worst] == [1, 1], "only the confident detections"
    assert mistakes.confusions[("cat", NOTHING)] == 1 and mistakes.confusions[("dog", NOTHING)] == 1
    assert [found.title for found, _ in find_mistakes([SECOND, FIRST], num_worst=1).worst] == ["first"]
    assert find_mistakes([]).worst == []


def test_overlaps():
    boxes, others = np.array([[0.0, 0, 2, 2], [5, 5, 5, 5]]), np.array([[1.0, 0, 3, 2], [5, 5, 5, 5]])
    assert pairwise_overlaps(boxes, others).tolist() == [[pytest.approx(1 / 3), 0.0], [0.0, 0.0]]
