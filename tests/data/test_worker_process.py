"""Workers of a loader outlive a SIGTERM for as long as the trainer needs to save, and end with it."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from maskrcnn_benchmark.data.worker_process import GRACE_S, leave_with_parent, start_worker

PATIENCE_S = 60  # for what happens at once on a machine that is not stopped


def _work(connection) -> None:
    """Sends a word when it has started, and then the seconds that it has left, as soon as they are counted."""
    start_worker(0)
    connection.send("started")
    while not (left_s := signal.getitimer(signal.ITIMER_REAL)[0]):
        time.sleep(0.001)
    connection.send(left_s)
    time.sleep(2 * PATIENCE_S)


def test_sigterm_ends_a_worker_later():
    context = multiprocessing.get_context("fork")
    connection, of_worker = context.Pipe()
    worker = context.Process(target=_work, args=(of_worker,), daemon=True)
    worker.start()
    of_worker.close()
    assert connection.poll(PATIENCE_S) and connection.recv() == "started"
    os.kill(worker.pid, signal.SIGTERM)
    assert connection.poll(PATIENCE_S) and 0 < connection.recv() <= GRACE_S
    os.kill(worker.pid, signal.SIGALRM)  # which the system sends when these seconds are over
    worker.join(PATIENCE_S)
    assert worker.exitcode == -signal.SIGALRM


def _lose_workers(connection, start) -> None:
    """Sends the number of a worker and is killed; what the worker loads does not fit into its pipe."""
    items = [b"x" * 200_000] * 100
    loader = DataLoader(items, batch_size=None, num_workers=1, worker_init_fn=start, collate_fn=bytes)
    batches = iter(loader)
    next(batches)
    connection.send(batches._workers[0].pid)
    os.kill(os.getpid(), signal.SIGKILL)


def _is_running(process: int) -> bool:
    """Whether it is more than an entry that nobody has asked for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("start", [start_worker, lambda worker: leave_with_parent()])
def test_worker_ends_with_its_killed_parent(start):
    context = multiprocessing.get_context("fork")
    connection, of_parent = context.Pipe()
    parent = context.Process(target=_lose_workers, args=(of_parent, start))
    parent.start()
    of_parent.close()
    assert connection.poll(PATIENCE_S)
    worker = connection.recv()
    parent.join(PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while _is_running(worker):
        if time.monotonic() > deadline:
            os.kill(worker, signal.SIGKILL)
            pytest.fail("the worker waits for somebody to read what it loaded")
        time.sleep(0.1)
