"""Processes meet through a store in which ended ones have left their traces; threads stand for them here."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import HashStore

from maskrcnn_benchmark.utils.rendezvous import agree_on_prefix

LONG, SHORT = timedelta(seconds=30), timedelta(seconds=0.2)


def meet(store: HashStore, world_size: int) -> set[str]:
    with ThreadPoolExecutor(world_size) as pool:
        started = [pool.submit(agree_on_prefix, store, rank, world_size, LONG) for rank in reversed(range(world_size))]
        return {one.result() for one in started}


def test_every_start_has_one_name_of_its_own():
    store = HashStore()
    names = [meet(store, world_size) for world_size in (3, 3, 2, 4, 1)]
    assert all(len(found) == 1 for found in names) and len(set.union(*names)) == len(names)


def test_traces_of_processes_that_ended_early_do_no_harm():
    store = HashStore()
    for rank in (0, 2):
        with pytest.raises(TimeoutError, match=r"ranks \[1, 2\] did not start" if rank == 0 else "did not answer"):
            agree_on_prefix(store, rank, 3, SHORT)
    assert len(meet(store, 3)) == 1
