import pytest

from maskrcnn_benchmark.text.spans import RememberedRanges, find_phrase, phrase_occurrences, token_at, token_range


class Words:
    """An encoding of words between blanks: the token of a character is the number of its word, after a [CLS]."""

    def __init__(self, *texts, visible=None):
        self.texts, self.visible = texts, visible

    def char_to_token(self, batch_or_char_index, char_index=None):
        assert char_index >= 0
        text = self.texts[batch_or_char_index]
        if char_index >= len(text) or text[char_index] == " ":
            return None
        word = text[:char_index].count(" ") + 1
        return None if self.visible is not None and word > self.visible else word


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((0, 3), (1, 1)),
        ((0, 8), (1, 2)),
        ((3, 8), (2, 2)),  # begins at a blank
        ((0, 4), (1, 1)),  # ends at a blank
        ((3, 4), None),  # a blank only: its neighbours lie the wrong way round
        ((9, 12), (3, 3)),
        ((9, 99), None),  # ends outside
        ((-1, 3), (1, 1)),
        ((-9, -5), None),
        ((2, 2), (1, 1)),
        ((0, 0), None),
    ],
)
def test_token_range(span, expected):
    assert token_range(Words("red dogs cat"), *span) == expected


def test_token_range_of_another_text_of_the_batch():
    assert token_range(Words("a", "red dogs cat"), 4, 8, batch_index=1) == (2, 2)


def test_a_span_that_ends_in_truncated_text_is_lost():
    encoding = Words("red dogs long_cat", visible=2)
    assert token_range(encoding, 4, 8) == (2, 2)
    assert token_range(encoding, 4, 17) is None


def test_token_at_never_passes_a_negative_position_on():
    assert token_at(Words("red"), -1) is None


@pytest.mark.parametrize(
    ("caption", "phrase", "expected"),
    [
        ("a car, a cart and a scarf", "car", [(2, 5)]),
        ("Car and CAR", "car", [(0, 3), (8, 11)]),
        ("a car-park", "car", [(2, 5)]),
        ("the dog's ball", "the dog", [(0, 7)]),
        ("the  dog", "the dog", [(0, 8)]),
        ("what (really)?", "(really)", [(5, 13)]),
        ("a.b axb", "a.b", [(0, 3)]),
        ("dog dog dog", "dog dog", [(0, 7)]),
        ("cafe\u0301 cafe", "cafe", [(6, 10)]),
        ("snake_case case", "case", [(11, 15)]),
        ("一只狗在草地上", "狗", [(2, 3)]),
        ("İstanbul cat", "cat", [(9, 12)]),
        ("a cat", "", []),
        ("a cat", "dog", []),
    ],
)
def test_phrase_occurrences(caption, phrase, expected):
    assert phrase_occurrences(caption, phrase) == expected


def test_find_phrase():
    assert find_phrase("a cat and a cat", "cat") == (2, 5)
    assert find_phrase("a cart", "car") is None


def test_remembered_ranges_are_those_of_the_encoding(bert_tokenizer):
    """Every span of the text, truncated and outside ones as well; the second time from memory."""
    text = "arctic . traffic light. flip-flop "
    encoding = bert_tokenizer(text, max_length=8, truncation=True)
    remembered = RememberedRanges(encoding)
    for begin in range(-1, len(text) + 2):
        for end in range(-1, len(text) + 2):
            expected = token_range(encoding, begin, end)
            assert token_range(remembered, begin, end) == expected == token_range(remembered, begin, end)
    assert remembered.char_to_token(0, 0) == encoding.char_to_token(0, 0) == 1
