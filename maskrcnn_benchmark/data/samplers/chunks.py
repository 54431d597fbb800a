"""Shares data out among machines so that each reads only its own part of the large sets."""

import os
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch.utils.data import Sampler

from maskrcnn_benchmark.data.datasets.concat import ConcatDataset
from maskrcnn_benchmark.utils import comm


class Node(NamedTuple):
    """The machine of this process: how many there are, and its number among them."""

    count: int = 1
    rank: int = 0

    @classmethod
    def from_environment(cls) -> "Node":
        """From NODE_COUNT and NODE_RANK, or those that Open MPI sets."""
        count = os.environ.get("NODE_COUNT") or os.environ.get("OMPI_COMM_WORLD_SIZE") or 1
        rank = os.environ.get("NODE_RANK") or os.environ.get("OMPI_COMM_WORLD_RANK") or 0
        return cls(int(count), int(rank))


class DistributedSamplerChunkByNode(Sampler[int]):
    """Gives every process its part of the common sets, and of the chunks that belong to its machine.

    Common sets are permuted and dealt out one by one to all processes. The chunks are split into consecutive runs, one
    per machine, and a run is dealt out to the processes of its machine; where machines have less than others, random
    items of theirs come again, so that all processes have equally many.

    Args:
        dataset: the sets one after the other.
        is_chunk: for every set whether it is a chunk.
        num_replicas, rank: number of processes and index of this one; by default those of the process group.
        node: the machine; by default from the environment. Machines have equally many processes, in the order of ranks.
    Raises: ValueError for fewer chunks than machines, and for processes that the machines cannot share evenly.
    """

    def __init__(
        self,
        dataset: ConcatDataset,
        is_chunk: Sequence[bool],
        num_replicas: int | None = None,
        rank: int | None = None,
        node: Node | None = None,
    ) -> None:
        self.num_replicas = comm.get_world_size() if num_replicas is None else num_replicas
        self.rank = comm.get_rank() if rank is None else rank
        self.node = Node.from_environment() if node is None else node
        if not isinstance(dataset, ConcatDataset) or len(is_chunk) != len(dataset.datasets):
            raise ValueError("DATALOADER.DISTRIBUTE_CHUNK_AMONG_NODE needs several training sets, chunks among them")
        if self.num_replicas % self.node.count:
            raise ValueError(f"{self.num_replicas} processes cannot be split evenly among {self.node.count} machines")
        ends = dataset.cumulative_sizes
        ranges = [range(end - len(part), end) for part, end in zip(dataset.datasets, ends, strict=True)]  # type: ignore[arg-type]
        chunks = [indices for indices, chunked in zip(ranges, is_chunk, strict=True) if chunked]
        if len(chunks) < self.node.count:
            raise ValueError(
                f"DATALOADER.DISTRIBUTE_CHUNK_AMONG_NODE: {len(chunks)} chunks (names with bing_caption) for "
                f"{self.node.count} machines; each needs one"
            )
        self.common = [i for indices, chunked in zip(ranges, is_chunk, strict=True) if not chunked for i in indices]
        first, last = (len(chunks) * number // self.node.count for number in (self.node.rank, self.node.rank + 1))
        self.own = [i for indices in chunks[first:last] for i in indices]
        self.num_samples = -(-len(dataset) // self.num_replicas)  # rounded up
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        processes = self.num_replicas // self.node.count  # of this machine
        rounds = max(-(-(len(self.common) - self.num_replicas) // self.num_replicas), 0)  # the original's, one too few
        common = self._permuted(self.common)[: rounds * self.num_replicas][self.rank :: self.num_replicas]
        own = self._permuted(self.own)[self.rank % processes :: processes]
        wanted = self.num_samples - len(common)
        seed = self.epoch + 10 * self.rank
        again = random.Random(seed).choices(own or self.own, k=max(wanted - len(own), 0))
        items = common + own[:wanted] + again
        random.Random(seed).shuffle(items)  # the original's order, whatever came again
        return iter(items)

    def _permuted(self, indices: Sequence[int]) -> list[int]:
        order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(self.epoch))
        return [indices[position] for position in order.tolist()]

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutations of the next pass."""
        self.epoch = epoch
