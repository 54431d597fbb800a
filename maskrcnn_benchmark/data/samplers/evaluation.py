"""Batches of a test set: every item once, whatever the number of processes."""

from collections.abc import Collection, Hashable, Iterator, Sequence

from torch.utils.data import Sampler


class EvaluationBatches(Sampler[list[int]]):
    """Shares the items of a test set out among processes, none of them twice.

    Batches are formed of all items and dealt out in turn, so that a process may have one batch more than another, or
    less pictures in one. They come in the order of their first items; with `by_ratio` and no limit in that of the
    ratios, so that batches of one shape, for which a GPU keeps a recording of its work, follow each other.

    Args:
        num_items: of the test set.
        batch_size: pictures of a batch.
        num_replicas, rank: number of processes and index of this one.
        ratios: for every item the height of its picture by the width. High and wide pictures do not share a batch; None
            for batches of neighbours.
        by_ratio: neighbours by ratio share a batch, whose padding is small then, and not those by number.
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
        ratios: Sequence[float] | None = None,
        by_ratio: bool = False,
        pictures: Sequence[Hashable] | None = None,
        limit: int = -1,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        if not 0 <= rank < num_replicas:
            raise ValueError(f"rank={rank} is not in [0, num_replicas={num_replicas})")
        self.batch_size = batch_size
        self.num_replicas, self.rank = num_replicas, rank
        self.ratios, self.pictures, self.limit = ratios, pictures, limit
        self.by_ratio = by_ratio and ratios is not None
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
        batches = []
        for run in self._runs(items):
            units = self._units(run)
            starts = range(0, len(units), self.batch_size)
            batches += [[item for unit in units[start : start + self.batch_size] for item in unit] for start in starts]
        if not self.by_ratio or self.limit >= 0:
            batches.sort(key=min)
        own = batches[self.rank :: self.num_replicas]
        return own if self.limit < 0 else own[: self.limit]

    def _runs(self, items: Sequence[int]) -> list[list[int]]:
        """The items in lists that share no batch."""
        if self.ratios is None:
            return [list(items)]
        ratios = self.ratios
        order = sorted(items, key=lambda item: ratios[item]) if self.by_ratio else items
        return [[item for item in order if ratios[item] < 1], [item for item in order if ratios[item] >= 1]]

    def _units(self, items: Sequence[int]) -> list[list[int]]:
        """Items of one picture as a list."""
        if self.pictures is None:
            return [[item] for item in items]
        units: dict[Hashable, list[int]] = {}
        for item in items:
            units.setdefault(self.pictures[item], []).append(item)
        return list(units.values())
