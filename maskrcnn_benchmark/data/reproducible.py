"""Data that depend on the seed and the iteration alone: not on workers, and not on where a run was interrupted."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch.utils.data import Dataset

from maskrcnn_benchmark.utils.random_state import seeded


class SampleKey(NamedTuple):
    """Which item to load, and the seed of everything random in it."""

    index: int
    seed: int


def sample_seed(*numbers: int) -> int:
    """A seed of 63 bits that is a fixed function of the numbers."""
    text = ",".join(map(str, numbers)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


class SeededBatchSampler:
    """Yields the batches of a sampler as lists of SampleKey, from iteration `start_iter` on.

    Args:
        batch_sampler: batches of indices of a whole run; its order must not depend on global random state.
        seed, rank: of the run and of the process.
        start_iter: batches that an earlier part of the run has used; they are drawn and left out.
    """

    def __init__(self, batch_sampler: Iterable[list[int]], seed: int = 0, rank: int = 0, start_iter: int = 0):
        self.batch_sampler = batch_sampler
        self.seed = seed
        self.rank = rank
        self.start_iter = start_iter

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for iteration, batch in enumerate(self.batch_sampler):
            if iteration >= self.start_iter:
                yield [
                    SampleKey(index, sample_seed(self.seed, self.rank, iteration, slot))
                    for slot, index in enumerate(batch)
                ]

    def __len__(self) -> int:
        return len(self.batch_sampler)  # type: ignore[arg-type]


class SeededDataset(Dataset):
    """Loads the items that a SeededBatchSampler asks for; random states outside an item are not touched."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getitem__(self, key: SampleKey):
        with seeded(key.seed):
            return self.dataset[key.index]

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]
