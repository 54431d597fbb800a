"""Batches of a test set: every item once, whatever the number of processes."""

from collections.abc import Collection, Hashable, Iterator, Sequence
from itertools import groupby

from torch.utils.data import Sampler


class EvaluationBatches(Sampler[list[int]]):
    """Shares the items of a test set out among processes, none of them twice.

    Batches are formed of all items and dealt out in turn, so that a process may have one batch more than another, or
    one less picture in its last.

    Args:
        num_items: of the test set.
        batch_size: pictures of a batch.
        num_replicas, rank: number of processes and index of this one.
        shapes: for every item what the items of a batch have in common, such as the orientation; None for nothing.
        pictures: for every item its picture, where several items (sentences) belong to one: these stay together, and
            a batch may then hold more items than pictures. None if every item has its own.
        limit: batches of this process at most, -1 for all.
    Raises: ValueError for a batch size below 1 or a rank outside [0, num_replicas).
    """

    def __init__(
        self,
        num_items: int,
        batch_size: int,
        num_replicas: int = 1,
        rank: int = 0,
        *,
        shapes: Sequence[Hashable] | None = None,
        pictures: Sequence[Hashable] | None = None,
        limit: int = -1,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        if not 0 <= rank < num_replicas:
            raise ValueError(f"rank={rank} is not in [0, num_replicas={num_replicas})")
        self.batch_size = batch_size
        self.num_replicas, self.rank = num_replicas, rank
        self.shapes, self.pictures, self.limit = shapes, pictures, limit
        self.items = list(range(num_items))
        self._done: frozenset[int] = frozenset()
        self._own: list[list[int]] | None = None

    def leave_out(self, items: Collection[int]) -> None:
        """Takes items out of the test set, the same on all processes."""
        dropped = frozenset(items)
        self.items = [item for item in self.items if item not in dropped]
        self._own = None

    def skip(self, done: Collection[int]) -> None:
        """Passes over items that an interrupted evaluation has done; the same on all processes."""
        self._done = frozenset(done)
        self._own = None

    @property
    def own_items(self) -> list[int]:
        """What this process still has to do, in order."""
        return [item for batch in self._batches() for item in batch]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches())

    def __len__(self) -> int:
        return len(self._batches())

    def _batches(self) -> list[list[int]]:
        if self._own is None:
            if self.limit < 0:
                self._own = self._deal([item for item in self.items if item not in self._done])
            else:  # the limit counts what was done before
                first = [[item for item in batch if item not in self._done] for batch in self._deal(self.items)]
                self._own = [batch for batch in first if batch]
        return self._own

    def _deal(self, items: Sequence[int]) -> list[list[int]]:
        """The batches of this process."""
        shapes = self.shapes
        order = list(items) if shapes is None else _together(items, [shapes[item] for item in items])
        runs = [order] if shapes is None else [list(run) for _, run in groupby(order, key=lambda item: shapes[item])]
        batches = []
        for run in runs:
            units = self._units(run)
            starts = range(0, len(units), self.batch_size)
            batches += [[item for unit in units[start : start + self.batch_size] for item in unit] for start in starts]
        own = batches[self.rank :: self.num_replicas]
        return own if self.limit < 0 else own[: self.limit]

    def _units(self, items: Sequence[int]) -> list[list[int]]:
        """Items of one picture as a list."""
        if self.pictures is None:
            return [[item] for item in items]
        units: dict[Hashable, list[int]] = {}
        for item in items:
            units.setdefault(self.pictures[item], []).append(item)
        return list(units.values())


def _together(items: Sequence[int], keys: Sequence[Hashable]) -> list[int]:
    """The items with equal keys one after the other, in the order of their first."""
    groups: dict[Hashable, list[int]] = {}
    for item, key in zip(items, keys, strict=True):
        groups.setdefault(key, []).append(item)
    return [item for group in groups.values() for item in group]
