"""Samplers: the recorded vectors of the original, order, lengths, and the loop that used to hang."""

import itertools
import random

import pytest
import torch
from torch.utils.data import BatchSampler, RandomSampler, Sampler, SequentialSampler

from maskrcnn_benchmark.data.datasets.concat import ConcatDataset
from maskrcnn_benchmark.data.samplers import (
    DistributedSampler,
    DistributedSamplerChunkByNode,
    GroupedBatchSampler,
    IterationBasedBatchSampler,
)
from maskrcnn_benchmark.data.samplers.chunks import Node


class Order(Sampler):
    """A given order; counts its passes and remembers its epochs."""

    def __init__(self, indices):
        self.indices = indices
        self.passes = 0
        self.epochs = []

    def __iter__(self):
        self.passes += 1
        return iter(self.indices)

    def __len__(self):
        return len(self.indices)

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


GROUPS = [0, 1, 0, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ([3, 1, 4, 0, 5, 2, 6], [[3, 0], [1, 4], [5, 2], [6]]),
        ([3, 1, 4], [[3], [1, 4]]),
        ([], []),
    ],
)
def test_recorded_groupings(order, expected):
    assert list(GroupedBatchSampler(Order(order), GROUPS, 2)) == expected


@pytest.mark.parametrize(
    ("batch_size", "drop_uneven", "expected"),
    [
        (1, False, [[0], [1], [2], [3], [4], [5], [6], [7], [8], [9]]),
        (3, False, [[0, 1, 3], [2, 4, 5], [6, 9], [7, 8]]),
        (4, False, [[0, 1, 3, 6], [2, 4, 5, 7], [8], [9]]),
        (3, True, [[0, 1, 3], [2, 4, 5]]),
        (4, True, [[0, 1, 3, 6], [2, 4, 5, 7]]),
    ],
)
def test_order_is_respected(batch_size, drop_uneven, expected):
    sampler = SequentialSampler(range(10))
    groups = torch.tensor([0, 0, 1, 0, 1, 1, 0, 1, 1, 0])
    assert list(GroupedBatchSampler(sampler, groups, batch_size, drop_uneven)) == expected


def test_every_item_comes_once_and_in_batches_of_one_group():
    torch.manual_seed(0)
    groups = [index % 3 for index in range(50)]
    batches = list(GroupedBatchSampler(RandomSampler(range(50)), groups, 4))
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(50))
    assert all(len({groups[index] for index in batch}) == 1 for batch in batches)


def test_repeated_items_come_once():
    assert list(GroupedBatchSampler(Order([2, 2, 0]), [0, 0, 0], 2)) == [[2, 0]]
    assert list(GroupedBatchSampler(Order([3, 1, 0, 3, 2]), [0, 0, 0, 0], 2)) == [[1, 0], [3, 2]]


def test_len_counts_the_pass_that_comes_next():
    sampler = GroupedBatchSampler(RandomSampler(range(40), num_samples=17), [i // 10 for i in range(40)], 3)
    for _ in range(5):
        count = len(sampler)
        assert count == len(sampler) == len(list(sampler))
    first, second = list(sampler), list(sampler)
    assert first != second


def test_len_does_not_keep_a_pass_of_another_epoch():
    sampler = GroupedBatchSampler(DistributedSampler(range(20), 1, 0), [0] * 20, 4)
    len(sampler)
    sampler.set_epoch(5)
    expected = GroupedBatchSampler(sampler.sampler, [0] * 20, 4)
    assert list(sampler) == list(expected)


def test_batch_size_is_checked():
    with pytest.raises(ValueError, match="batch_size=0"):
        GroupedBatchSampler(Order([0]), [0], 0)


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize(("count", "passes"), [(5, 2), (10, 3), (7, 2)])
def test_iterations_and_passes(start, count, passes):
    order = Order(list(range(10)))
    sampler = IterationBasedBatchSampler(BatchSampler(order, 2, drop_last=False), count + start, start)
    batches = list(sampler)
    assert len(sampler) == count + start
    assert batches == [[2 * (i % 5), 2 * (i % 5) + 1] for i in range(count)]
    assert order.passes == passes
    assert order.epochs == [start + 5 * i for i in range(passes)]


@pytest.mark.parametrize(("num_iterations", "passes"), [(0, 0), (2, 1)])
def test_nothing_left_to_do(num_iterations, passes):
    order = Order([0, 1])
    assert list(IterationBasedBatchSampler(BatchSampler(order, 1, drop_last=False), num_iterations, 2)) == []
    assert order.passes == passes


def test_the_pass_after_the_last_iteration_may_be_empty():
    order = Order([0, 1])
    batches = iter(IterationBasedBatchSampler(BatchSampler(order, 2, drop_last=True), 1))
    assert next(batches) == [0, 1]
    order.indices = []
    assert list(batches) == [] and order.epochs == [0, 1]


@pytest.mark.parametrize(
    "inner",
    [BatchSampler(Order([0, 1]), 4, drop_last=True), GroupedBatchSampler(Order([0, 1]), [0, 1], 4, drop_uneven=True)],
)
def test_a_pass_without_batches_is_an_error(inner):
    with pytest.raises(ValueError, match="no pass over the dataset yields a batch of 4"):
        next(iter(IterationBasedBatchSampler(inner, 10)))


def test_a_pass_that_happens_to_have_no_batch_is_followed_by_another_order():
    """Two wide and two high pictures for two processes: in some orders each process has one of both."""
    for rank in range(2):
        grouped = GroupedBatchSampler(DistributedSampler(range(4), 2, rank), [0, 0, 1, 1], 2, drop_uneven=True)
        passes = []
        for epoch in range(30):
            grouped.set_epoch(epoch)
            passes.append(list(grouped))
        assert [] in passes and [[2, 3]] in map(lambda one: [sorted(batch) for batch in one], passes)
        batches = list(IterationBasedBatchSampler(grouped, 20))
        assert len(batches) == 20 and {tuple(sorted(batch)) for batch in batches} == {(0, 1), (2, 3)}


def test_epochs_reach_a_sampler_below_a_grouped_one():
    order = Order([0, 1, 2, 3])
    grouped = GroupedBatchSampler(order, [0, 0, 1, 1], 2)
    assert len(list(IterationBasedBatchSampler(grouped, 5))) == 5
    assert order.epochs == [0, 2, 4]


def test_recorded_shares():
    shares = []
    for rank in range(2):
        sampler = DistributedSampler(range(5), 2, rank)
        sampler.set_epoch(3)
        shares.append(list(sampler))
        assert len(sampler) == 3
    assert shares == [[1, 0, 3], [4, 2, 1]]


def test_shares_without_shuffling_and_with_more_processes_than_items():
    assert [list(DistributedSampler(range(5), 2, rank, shuffle=False)) for rank in range(2)] == [[0, 1, 2], [3, 4, 0]]
    assert [list(DistributedSampler(range(2), 5, rank, shuffle=False)) for rank in range(5)] == [
        [0],
        [1],
        [0],
        [1],
        [0],
    ]


def test_defaults_and_random_seed():
    sampler = DistributedSampler(range(6), use_random=True)
    assert (sampler.num_replicas, sampler.rank) == (1, 0)
    passes = {tuple(sampler) for _ in range(8)}
    assert len(passes) > 1 and all(sorted(order) == list(range(6)) for order in passes)


def test_bad_arguments():
    with pytest.raises(ValueError, match="rank=2 is not in"):
        DistributedSampler(range(5), 2, 2)
    with pytest.raises(ValueError, match="empty"):
        DistributedSampler([], 2, 0)


SETS = ConcatDataset([range(6), range(7), range(13), range(2)])
IS_CHUNK = [True, False, True, True]  # items 0 to 5, 13 to 25, 26 and 27


def shares(nodes: int, processes: int, epoch: int = 0) -> list[list[int]]:
    found = []
    for rank in range(processes):
        node = Node(nodes, rank * nodes // processes)
        sampler = DistributedSamplerChunkByNode(SETS, IS_CHUNK, processes, rank, node)
        sampler.set_epoch(epoch)
        found.append(list(sampler))
        assert len(found[-1]) == len(sampler) == -(-len(SETS) // processes)
    return found


def test_machines_read_their_own_chunks_only():
    for epoch in range(3):
        parts = shares(2, 4, epoch)
        assert all(set(part) <= {*range(6), *range(6, 13)} for part in parts[:2])
        assert all(set(part) <= {*range(6, 13), *range(13, 28)} for part in parts[2:])
        common = [item for part in parts for item in part if 6 <= item < 13]
        assert len(common) == len(set(common)) == 4, "7 common items for 4 processes: the original leaves out the rest"
        assert set(parts[0]) & set(range(6)) | set(parts[1]) & set(range(6)) == set(range(6))
        assert not set(parts[2]) & set(parts[3])
    assert shares(2, 4, 0) == shares(2, 4, 0) != shares(2, 4, 1)


def test_one_machine_reads_everything_once_but_for_the_common_rest():
    (items,) = shares(1, 1)
    chunks = {*range(6), *range(13, 28)}
    assert chunks <= set(items) and len(set(items) - chunks) == 6 and len(items) == 28


@pytest.mark.parametrize("epoch", [0, 3])
def test_order_of_a_machine_with_a_single_item_of_its_own(epoch):
    """Four common items of five, two for each process; the one of the chunk fills up; shuffled by the epoch alone."""
    sets = ConcatDataset([range(5), range(1), range(6)])
    sampler = DistributedSamplerChunkByNode(sets, [False, True, True], 2, 0, Node(2, 0))
    sampler.set_epoch(epoch)
    common = torch.randperm(5, generator=torch.Generator().manual_seed(epoch)).tolist()[:4][0::2]
    expected = [*common, 5, 5, 5, 5]
    random.Random(epoch).shuffle(expected)
    assert list(sampler) == expected


def test_chunks_that_cannot_be_shared_out(monkeypatch):
    with pytest.raises(ValueError, match="3 chunks .* for 4 machines"):
        DistributedSamplerChunkByNode(SETS, IS_CHUNK, 4, 0, Node(4, 0))
    with pytest.raises(ValueError, match="3 processes cannot be split evenly among 2 machines"):
        DistributedSamplerChunkByNode(SETS, IS_CHUNK, 3, 0, Node(2, 0))
    with pytest.raises(ValueError, match="needs several training sets"):
        DistributedSamplerChunkByNode(range(5), [True], 1, 0)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "8")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "3")
    assert Node.from_environment() == (8, 3)
    monkeypatch.setenv("NODE_COUNT", "2")
    monkeypatch.setenv("NODE_RANK", "1")
    assert Node.from_environment() == (2, 1)
