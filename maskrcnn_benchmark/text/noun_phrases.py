"""The noun phrases of a free caption: the things that a detector is asked to find in "a man on a brown horse"."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

from maskrcnn_benchmark.text import pos_rules

logger = logging.getLogger(__name__)

Tagger = Callable[[Sequence[str]], Sequence[str]]
"""Lower-cased words and punctuation marks of a caption -> their Penn Treebank tags."""

_PUNCTUATION = str.maketrans("", "", "|:;@()[]{}^'\"’`?$%#!&*+,.")


class NounPhrase(NamedTuple):
    """A phrase, lower-cased and without punctuation, and where it stands: characters `[begin, end)` of the caption."""

    text: str
    begin: int
    end: int


class Word(NamedTuple):
    """A word, a part split off it ("'s"), or a punctuation mark; `text` is lower-cased."""

    text: str
    begin: int
    end: int


def find_noun_phrases(caption: str, tagger: Tagger | None = None) -> list[NounPhrase]:
    """Every noun phrase of the caption in reading order, each occurrence once.

    A phrase is an optional determiner, any adjectives and one or more nouns.  Words are tagged by nltk where it and its
    tagger data are installed, otherwise by the rules of `pos_rules` with one warning per process.  Nothing is fetched.
    """
    words = split_words(caption)
    tags = (tagger or _default_tagger())([word.text for word in words])
    phrases = []
    for first, last in chunk_noun_phrases(tags):
        text = remove_punctuation(" ".join(word.text for word in words[first : last + 1]))
        if text:
            phrases.append(NounPhrase(text, words[first].begin, words[last].end))
    return phrases


def chunk_noun_phrases(tags: Sequence[str]) -> list[tuple[int, int]]:
    """First and last (inclusive) index of every run DT? JJ* NN+ of the tags (with JJR, NNS, ... as JJ and NN)."""
    chunks = []
    start = 0
    while start < len(tags):
        position = start + (tags[start] == "DT")
        while position < len(tags) and tags[position].startswith("JJ"):
            position += 1
        nouns = position
        while position < len(tags) and tags[position].startswith("NN"):
            position += 1
        if position > nouns:
            chunks.append((start, position - 1))
            start = position
        else:
            start += 1
    return chunks


def remove_punctuation(text: str) -> str:
    """`text` without brackets, quotes and punctuation, stripped; hyphens, slashes and underscores stay."""
    return text.translate(_PUNCTUATION).strip()


def split_words(caption: str) -> list[Word]:
    """Words and punctuation marks of a caption with their places.

    Hyphens, slashes and the points of numbers stay inside a word; an apostrophe starts a word of its own ("dog", "'s").
    """
    kinds = "".join(map(_kind, caption))
    return [
        Word(caption[match.start() : match.end()].lower(), match.start(), match.end())
        for match in re.finditer(r"d+(?:pd+)+(?!w)|[wd]+(?:h[wd]+)*|a[wd]+|s+|[hpao]", kinds)
    ]


def _kind(character: str) -> str:
    """Letter for what a character does in a word; `split_words` matches over these letters."""
    if character.isspace():
        return " "
    if character.isdigit():
        return "d"
    if character in "-/":
        return "h"
    if character in ".,":
        return "p"
    if character in "'’":
        return "a"
    category = unicodedata.category(character)
    if category[0] in "LNM" or category == "Cf" or character == "_":
        return "w"
    return "s" if category == "So" else "o"  # emoji and other signs stand for things


@cache
def _default_tagger() -> Tagger:
    """nltk's tagger if it works here, else the rules, with a warning because it is chosen once."""
    try:
        import nltk

        nltk.pos_tag(["a", "word"])
    except (ImportError, LookupError) as error:
        reason = "nltk is not installed" if isinstance(error, ImportError) else "nltk's tagger data are not installed"
        logger.warning(
            "%s; noun phrases come from simple rules. For nltk's, run: python -m nltk.downloader "
            "averaged_perceptron_tagger_eng",
            reason,
        )
        return pos_rules.tag_words
    return _tag_with_nltk


def _tag_with_nltk(words: Sequence[str]) -> list[str]:
    import nltk

    return [tag for _, tag in nltk.pos_tag(list(words))]
