"""A caption among others that do not describe the picture: negatives for grounding data."""

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class PackSize(NamedTuple):
    """How many foreign captions a caption gets.

    Attributes:
        most: N, at most so many; 0 for none.
        full_probability: of N; -1 takes N always.
        none_probability: of none, drawn before the other.
    """

    most: int = 0
    full_probability: float = -1.0
    none_probability: float = 0.0

    def draw(self) -> int:
        """None, N, or any number below N with equal probability."""
        if self.most <= 0 or self.full_probability == -1:
            return max(self.most, 0)
        if random.random() < self.none_probability:
            return 0
        if random.random() < self.full_probability:
            return self.most
        return random.randrange(self.most)


class MixedCaption(NamedTuple):
    """What a picture is shown with.

    Attributes:
        text: the own caption among foreign ones, or foreign captions alone.
        offset: character at which the own caption starts.
        is_own: False where a foreign caption stands in its place; the boxes go then.
        scored_span: the characters that masked language modelling scores.
    """

    text: str
    offset: int
    is_own: bool
    scored_span: tuple[int, int]


class ForeignCaptions(NamedTuple):
    """Captions of other pictures as negatives.

    Attributes:
        pack_size: how many are put beside a caption.
        replace_probability: of a foreign caption in place of the own one.
        keep_own: leave out foreign captions that would push the own one over `max_tokens`.
        max_tokens: tokens that the model reads.
        score_own_only: masked language modelling scores the words of the own caption only.
    """

    pack_size: PackSize = PackSize()
    replace_probability: float = -1.0
    keep_own: bool = True
    max_tokens: int = 256
    score_own_only: bool = False

    def around(self, caption: str, draw_other: Callable[[], str], tokenizer: Any) -> MixedCaption:
        """The text for a picture of this caption; `draw_other` gives a foreign one at every call."""
        is_own = not (self.replace_probability > 0 and random.random() < self.replace_probability)
        if not is_own:
            caption = draw_other()
        others = [draw_other() for _ in range(self.pack_size.draw())]
        text, offset = pack_captions(
            caption,
            others,
            lambda words: len(tokenizer(words, verbose=False)["input_ids"]),
            self.max_tokens if self.keep_own else None,
        )
        span = (offset, offset + len(caption)) if self.score_own_only else (0, len(text))
        return MixedCaption(text, offset, is_own, span)


def pack_captions(
    caption: str, others: Sequence[str], count_tokens: Callable[[str], int], max_tokens: int | None
) -> tuple[str, int]:
    """One text of the caption and others in random order, each closed by a full stop and a blank.

    Args:
        others: foreign captions; without any the caption stays as it is.
        count_tokens: text -> tokens with the special ones at its ends.
        max_tokens: of the text; others that do not fit beside the caption are left out. None: all are taken.
    Returns: the text, and the character at which the caption starts.
    """
    if not others:
        return caption, 0
    others = list(others)
    if max_tokens is not None:
        room = max_tokens - count_tokens(caption)
        fitting = []
        for other in random.sample(others, len(others)):
            tokens = count_tokens(other)
            if tokens < room:
                fitting.append(other)
                room -= tokens
        others = fitting
    place = random.randrange(len(others) + 1)
    random.shuffle(others)
    before = "".join(map(_closed, others[:place]))
    return before + _closed(caption) + "".join(map(_closed, others[place:])), len(before)


def _closed(caption: str) -> str:
    return caption + (" " if caption.endswith(".") else ". ")
