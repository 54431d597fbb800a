"""A caption among others that do not describe the picture: negatives for grounding data."""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple


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
