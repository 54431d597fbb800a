"""Character spans of a caption and the tokens they cover.

A span is a half-open range `[begin, end)` of characters.  Nothing here raises for a span that cannot be mapped: such a
span (white space only, truncated away, outside the caption) has no token range, and the caller decides what that means.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Protocol

Span = tuple[int, int]

_TRIES = 3  # how many characters are tried from either end; names may carry a blank at both ends


class CharToToken(Protocol):
    """What spans need of a Hugging Face `BatchEncoding` made by a fast tokenizer."""

    def char_to_token(self, batch_or_char_index: int, char_index: int | None = None) -> int | None:
        """Index of the token that holds a character of a text of the batch, or None."""


def token_at(encoding: CharToToken, position: int, batch_index: int = 0) -> int | None:
    """Token of the character at `position`; None for white space, truncated text and positions outside the text."""
    if position < 0:
        return None
    return encoding.char_to_token(batch_index, position)


def token_range(encoding: CharToToken, begin: int, end: int, batch_index: int = 0) -> Span | None:
    """First and last token (both inclusive) of the characters `[begin, end)` of text `batch_index`, or None.

    Where the outermost character has no token the next two inwards are tried, because class names keep a trailing
    blank when a bracketed part was cut off.
    """
    if isinstance(encoding, RememberedRanges):
        return encoding.token_range(begin, end, batch_index)
    first = _first_token(encoding, range(begin, begin + _TRIES), batch_index)
    last = _first_token(encoding, range(end - 1, end - 1 - _TRIES, -1), batch_index)
    if first is None or last is None or first > last:
        return None
    return first, last


class RememberedRanges:
    """An encoding whose token ranges are each found once: the boxes, classes and phrases of a caption share spans."""

    def __init__(self, encoding: CharToToken):
        self.encoding = encoding
        self.char_to_token = encoding.char_to_token
        self._ranges: dict[tuple[int, int, int], Span | None] = {}

    def token_range(self, begin: int, end: int, batch_index: int = 0) -> Span | None:
        """What the function of this name finds for the encoding."""
        key = (begin, end, batch_index)
        if key not in self._ranges:
            self._ranges[key] = token_range(self.encoding, begin, end, batch_index)
        return self._ranges[key]


def _first_token(encoding: CharToToken, positions: Iterable[int], batch_index: int) -> int | None:
    for position in positions:
        token = token_at(encoding, position, batch_index)
        if token is not None:
            return token
    return None


def phrase_occurrences(caption: str, phrase: str) -> list[Span]:
    """Spans of every whole-word occurrence of `phrase` in `caption`, left to right, without overlaps, ignoring case.

    The phrase is plain text, never a regular expression, and runs of white space match one another.  "car" is found in
    "a car-park" but not in "cart" or "scarf"; scripts written without blanks (Chinese, Japanese, ...) match anywhere.
    """
    words = [_fold(word) for word in phrase.split()]
    if not words:
        return []
    folded, origin = _fold_with_positions(caption)
    spans: list[Span] = []
    start = 0
    while (hit := _match(folded, words, start)) is not None:
        begin, end = hit
        if _is_boundary(folded, begin) and _is_boundary(folded, end):
            spans.append((origin[begin], origin[end - 1] + 1))
            start = end
        else:
            start = begin + 1
    return spans


def find_phrase(caption: str, phrase: str) -> Span | None:
    """Span of the first whole-word occurrence of `phrase` in `caption`, or None; see `phrase_occurrences`."""
    spans = phrase_occurrences(caption, phrase)
    return spans[0] if spans else None


def _match(text: str, words: list[str], start: int) -> Span | None:
    """Next place at or after `start` where the words follow one another with only white space between them."""
    while (begin := text.find(words[0], start)) >= 0:
        end = begin + len(words[0])
        for word in words[1:]:
            gap = end
            while gap < len(text) and text[gap].isspace():
                gap += 1
            if gap == end or not text.startswith(word, gap):
                break
            end = gap + len(word)
        else:
            return begin, end
        start = begin + 1
    return None


def _fold(text: str) -> str:
    return "".join(character.lower() for character in text)


def _fold_with_positions(text: str) -> tuple[str, list[int]]:
    """Lower-cased text, and for each of its characters the position in `text`: lower-casing can add characters."""
    folded: list[str] = []
    origin: list[int] = []
    for position, character in enumerate(text):
        lowered = character.lower()
        folded.append(lowered)
        origin.extend([position] * len(lowered))
    return "".join(folded), origin


def _is_boundary(text: str, position: int) -> bool:
    """Whether a word may begin or end between the characters `position - 1` and `position`."""
    if position <= 0 or position >= len(text):
        return True
    return not (_joins_words(text[position - 1]) and _joins_words(text[position]))


def _joins_words(character: str) -> bool:
    """Letters, digits, marks and "_" continue a word; the signs of scripts written without blanks do not."""
    if character.isalnum():
        return not _stands_alone(character)
    return character == "_" or unicodedata.category(character).startswith("M")


def _stands_alone(character: str) -> bool:
    code = ord(character)
    return (
        0x2E80 <= code <= 0x31FF  # radicals, kana, bopomofo
        or 0x3400 <= code <= 0x9FFF  # ideographs
        or 0xF900 <= code <= 0xFAFF
        or 0x20000 <= code <= 0x3FFFF
        or 0x0E00 <= code <= 0x0EFF  # Thai, Lao
        or 0x1000 <= code <= 0x109F  # Burmese
        or 0x1780 <= code <= 0x17FF  # Khmer
    )
