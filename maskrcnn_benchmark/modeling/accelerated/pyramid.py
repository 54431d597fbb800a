"""Where the levels of a feature pyramid lie in one sequence of locations."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from torch import Tensor


class PyramidShape(NamedTuple):
    """Sizes (H_l, W_l) of the levels, finest first; each level is stored row by row after the one before it."""

    sizes: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, sizes: Sequence[Sequence[int]]) -> "PyramidShape":
        return cls(tuple((int(height), int(width)) for height, width in sizes))

    @property
    def lengths(self) -> tuple[int, ...]:
        """Number of locations of every level."""
        return tuple(height * width for height, width in self.sizes)

    @property
    def starts(self) -> tuple[int, ...]:
        """First location of every level."""
        return tuple(accumulate(self.lengths, initial=0))[:-1]

    @property
    def total(self) -> int:
        """Number of locations N of all levels."""
        return sum(self.lengths)

    def levels(self, visual: Tensor) -> Iterator[Tensor]:
        """(B, N, C) -> views (B, H_l, W_l, C), finest level first."""
        for start, (height, width) in zip(self.starts, self.sizes, strict=True):
            yield visual[:, start : start + height * width].unflatten(1, (height, width))
