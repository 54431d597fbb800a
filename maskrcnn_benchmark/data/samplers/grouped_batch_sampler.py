"""Batches of alike items, such as pictures of one orientation, in the order of the sampler below."""

from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler


class GroupedBatchSampler(Sampler[list[int]]):
    """Cuts each group's items into batches, in sampled order, and orders the batches by their first item.

    Example: order [3, 1, 4, 0, 5, 2, 6], groups [0, 1, 0, 0, 1, 0, 1] and batches of 2 give
    [[3, 0], [1, 4], [5, 2], [6]].

    An item that the sampler yields several times comes once, at its last place, as in the original.

    Args:
        sampler: yields dataset indices; drawn once for each pass.
        group_ids: group of every dataset index.
        drop_uneven: leave out batches with fewer than ``batch_size`` items.
    Raises: ValueError if ``batch_size`` is not positive.
    """

    def __init__(
        self, sampler: Sampler[int], group_ids: Sequence[int], batch_size: int, drop_uneven: bool = False
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        self.sampler = sampler
        self.group_ids = [int(group) for group in group_ids]
        self.batch_size = batch_size
        self.drop_uneven = drop_uneven
        self._counted: list[list[int]] | None = None  # the pass that len() drew, handed out by the next iteration

    def _draw_batches(self) -> list[list[int]]:
        open_batches: dict[int, list[int]] = {}
        batches: list[list[int]] = []  # in the order of their first items, as each is entered when it begins
        last_places = reversed(dict.fromkeys(reversed(list(self.sampler))))
        for index in last_places:
            group = self.group_ids[index]
            batch = open_batches.get(group)
            if batch is None:
                batch = open_batches[group] = []
                batches.append(batch)
            batch.append(index)
            if len(batch) == self.batch_size:
                del open_batches[group]
        if self.drop_uneven:
            batches = [batch for batch in batches if len(batch) == self.batch_size]
        return batches

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._draw_batches() if self._counted is None else self._counted
        self._counted = None
        return iter(batches)

    def __len__(self) -> int:
        """Number of batches of the next pass, which is drawn to count them."""
        if self._counted is None:
            self._counted = self._draw_batches()
        return len(self._counted)

    def set_epoch(self, epoch: int) -> None:
        """Tell the sampler below which pass comes next."""
        self._counted = None
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
