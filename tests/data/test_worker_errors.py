"""What a lost data worker looks like to the trainer, whichever way it is noticed."""

import multiprocessing
import os
import signal
import sys

import pytest
import torch

from maskrcnn_benchmark.data.worker_errors import WorkerLost, worker_errors_in_one_line
from maskrcnn_benchmark.data.worker_process import start_worker


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            RuntimeError("DataLoader worker (pid 41) is killed by signal: Killed. "),
            "process id 41 was killed by signal",
        ),
        (
            RuntimeError("DataLoader worker (pid(s) 41, 42) exited unexpectedly"),
            "process id 41, 42 exited unexpectedly",
        ),
        (ConnectionResetError(104, "Connection reset by peer"), "ended without saying why .*Connection reset by peer"),
        (EOFError(), "ended without saying why"),
    ],
)
def test_lost_workers(error, words):
    with pytest.raises(WorkerLost, match=words) as caught, worker_errors_in_one_line():
        raise error
    assert "DATALOADER.NUM_WORKERS" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not fit"), ValueError("no such class"), OSError("disk full")]
)
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as caught, worker_errors_in_one_line():
        raise error
    assert caught.value is error


def test_errors_of_a_worker_come_without_its_traceback():
    text = "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback ...\n"
    text += "ValueError: picture 'a.png' is broken\n"
    with pytest.raises(ValueError, match=r"^picture 'a.png' is broken$"), worker_errors_in_one_line():
        raise ValueError(text)


class Faulty(torch.utils.data.Dataset):
    """Raises an error of some class for the third item."""

    def __init__(self, error: type[Exception]):
        self.error = error

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        if index == 2:
            raise self.error("a fault")
        return index


@pytest.mark.parametrize("error", [ValueError, KeyError])
def test_workers_end_with_the_block(error):
    """Not with the program, which would wait until they give in to the signal that ends them."""
    loader = torch.utils.data.DataLoader(Faulty(error), batch_size=1, num_workers=2, worker_init_fn=start_worker)
    before = set(multiprocessing.active_children())
    with pytest.raises(error, match="a fault"), worker_errors_in_one_line():
        for _ in loader:
            pass
    assert set(multiprocessing.active_children()) <= before


@pytest.fixture
def loader():
    return torch.utils.data.DataLoader(
        Faulty(ValueError), sampler=[0] * 50, num_workers=2, worker_init_fn=start_worker, prefetch_factor=1
    )


def read_until_lost(loader, killed: int, event) -> None:
    """Kills a worker, which PyTorch does not notice before the event."""
    before = set(multiprocessing.active_children())
    batches = iter(loader)
    next(batches)
    workers = sorted(set(multiprocessing.active_children()) - before, key=lambda worker: worker.pid)
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.kill(workers[killed].pid, signal.SIGKILL)
    os.waitid(os.P_PID, workers[killed].pid, os.WEXITED | os.WNOWAIT)  # dead, but not yet taken off
    signal.signal(signal.SIGCHLD, handler)
    event()
    for _ in batches:
        pass


@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize("seen_from", ["pipe", "signal"])
def test_lost_worker_is_told_once(loader, monkeypatch, killed, seen_from):
    """Not again when the other worker ends: at any place of the program, or on the way of the first error."""

    def notice():
        if seen_from == "pipe":
            raise ConnectionResetError(104, "Connection reset by peer")
        os.kill(os.getpid(), signal.SIGCHLD)

    before = set(multiprocessing.active_children())
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    with pytest.raises(WorkerLost) as caught, worker_errors_in_one_line():
        read_until_lost(loader, killed, notice)
    assert caught.value.__cause__ is not None, "an error that is kept, in a log record say, keeps no loader"
    os.kill(os.getpid(), signal.SIGCHLD)
    assert set(multiprocessing.active_children()) <= before
    assert not ignored
