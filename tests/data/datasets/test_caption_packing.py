"""Captions packed beside others, records of teacher boxes, and their screening."""

import random
from collections import Counter

import pytest

from maskrcnn_benchmark.data.datasets.caption_packing import PackSize, pack_captions
from maskrcnn_benchmark.data.datasets.caption_record import (
    CaptionRecord,
    answer_as_mask,
    read_caption_record,
    screen,
)


def count_words(text: str) -> int:
    return len(text.split()) + 2


@pytest.fixture(autouse=True)
def seed():
    random.seed(0)


def test_number_of_foreign_captions():
    assert PackSize().draw() == 0 and PackSize(5).draw() == 5
    counts = Counter(PackSize(20, 0.5, 0.4).draw() for _ in range(4000))
    # 40 % none (and a few of the uniform draws), 30 % twenty, 30 % spread over 0..19
    assert counts[20] == pytest.approx(1200, rel=0.1) and counts[0] == pytest.approx(1660, rel=0.1)
    assert set(counts) == set(range(21)) and counts[7] == pytest.approx(60, abs=30)


def test_the_caption_is_found_in_the_text():
    for _ in range(20):
        text, begin = pack_captions("a cat", ["two dogs.", "a cat"], count_words, None)
        assert sorted(text.split(". ")) == ["", "a cat", "a cat", "two dogs"] and text.endswith(". ")
        assert text[begin : begin + 5] == "a cat"
    assert pack_captions("a cat", [], count_words, None) == ("a cat", 0)
    assert {pack_captions("a cat", ["x"], count_words, None)[1] for _ in range(20)} == {0, 3}


def test_what_does_not_fit_is_left_out():
    others = ["one", "one two three four five six seven", "one two"]
    for _ in range(20):  # 4 of 12 tokens are taken; 3 and 4 fit into the other 8, 9 do not
        assert len(pack_captions("a cat", others, count_words, 12)[0]) == len("a cat. one. one two. ")
    assert pack_captions("a cat", others, count_words, 7)[0] == "a cat. ", "a budget must be passed strictly"


V1 = {"caption": "a cat", "bboxes": [[0, 0, 9, 9]], "tokens_positive": [[[2, 5]]], "scores": [0.7]}
V2 = {
    "caption": "a cat and dogs",
    "bboxes": [[[0, 0, 9, 9]], [[1, 1, 5, 5], [2, 2, 6, 6]]],
    "tokens_positive": [[[2, 5]], [[10, 14]]],
    "scores": [[0.7], [0.8, 0.9]],
}


def test_formats():
    assert read_caption_record(V1) == CaptionRecord("a cat", [[0, 0, 9, 9]], [[[2, 5]]], [0.7])
    record = read_caption_record(V2, "v2")
    assert record.boxes == [[0, 0, 9, 9], [1, 1, 5, 5], [2, 2, 6, 6]] and record.scores == [0.7, 0.8, 0.9]
    assert record.spans == [[[2, 5]], [[10, 14]], [[10, 14]]]
    without_scores = {key: value for key, value in V2.items() if key != "scores"}
    assert read_caption_record(without_scores, "v2").scores == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("label", "version", "message"),
    [
        (V1, "v3", "'v3'"),
        (V1 | {"scores": []}, "v1", "1 boxes, 1 tokens_positive, 0 scores"),
        (V2 | {"scores": [[0.7], [0.8]]}, "v2", "3 boxes, 3 tokens_positive, 2 scores"),
        (V2 | {"tokens_positive": []}, "v2", "2 boxes, 0 tokens_positive"),
    ],
)
def test_wrong_records(label, version, message):
    with pytest.raises(ValueError, match=message):
        read_caption_record(label, version)


def test_screening_keeps_phrases_with_their_boxes():
    record = CaptionRecord(
        "text",
        [[0, 0, 9, 9], [0, 0, 9, 8], [50, 50, 60, 60], [70, 0, 79, 9]],
        ["a", "b", "c", "d"],
        [0.6, 0.7, 0.9, 0.5],
    )
    assert screen(record, 0.5, -1).spans == ["a", "b", "c"], "the threshold itself does not pass"
    screened = screen(record, 0.5, 0.5)
    assert screened.spans == ["c", "b"] and screened.scores == [0.9, 0.7]
    assert screened.boxes == [[50, 50, 60, 60], [0, 0, 9, 8]]
    assert screen(record, 0.95, 0.5).boxes == []


def test_answer_becomes_a_mask():
    caption = "what is the dog eating? a red apple"
    record = CaptionRecord(caption, [[0] * 4] * 2, [[(12, 15)], [(26, 35), (8, 15)]], [1.0, 1.0])
    masked = answer_as_mask(record, "what is the dog eating?", "[MASK]")
    assert masked.caption == "what is the dog eating?[MASK]"
    assert masked.spans == [[(12, 15)], [(23, 29), (8, 15)]]
    assert masked.caption[23:29] == "[MASK]"
