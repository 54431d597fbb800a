"""Shares a dataset out among processes."""

from collections.abc import Callable, Iterator, Sized

import torch
from torch.utils.data import Sampler

from maskrcnn_benchmark.utils import comm


class DistributedSampler(Sampler[int]):
    """Gives every process an equally long, contiguous slice of one permutation, a new one for each epoch.

    As in the original the permutations depend on the epoch alone, not on SOLVER.SEED.

    The permutation is padded by its own beginning when the processes do not divide the dataset.

    Args:
        num_replicas, rank: number of processes and index of this one; by default those of the process group.
        shuffle: permute; otherwise the slices are cut from the dataset's order.
        use_random: draw each pass's seed anew, the same on all processes, instead of using the epoch number.
        draw_seed: what draws it; by default the first process does, and tells the others, who begin a pass together.
    Raises: ValueError for an empty dataset or a rank outside [0, num_replicas).
    """

    def __init__(
        self,
        dataset: Sized,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        use_random: bool = False,
        draw_seed: Callable[[], int] = comm.shared_random_seed,
    ) -> None:
        self.dataset = dataset
        self.num_replicas = comm.get_world_size() if num_replicas is None else num_replicas
        self.rank = comm.get_rank() if rank is None else rank
        if not 0 <= self.rank < self.num_replicas:
            raise ValueError(f"rank={self.rank} is not in [0, num_replicas={self.num_replicas})")
        if not len(dataset):
            raise ValueError("the dataset is empty: there is nothing to share out")
        self.shuffle = shuffle
        self.use_random = use_random
        self.draw_seed = draw_seed
        self.epoch = 0
        self.num_samples = -(-len(dataset) // self.num_replicas)  # rounded up
        self.total_size = self.num_samples * self.num_replicas

    def __iter__(self) -> Iterator[int]:
        size = len(self.dataset)
        if self.shuffle:
            seed = self.draw_seed() if self.use_random else self.epoch
            order = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist()
        else:
            order = list(range(size))
        first = self.rank * self.num_samples
        return (order[position % size] for position in range(first, first + self.num_samples))

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation of the next pass."""
        self.epoch = epoch
