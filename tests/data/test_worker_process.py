"""Workers of a loader outlive a SIGTERM for as long as the trainer needs to save."""

import multiprocessing
import os
import signal
import time

from maskrcnn_benchmark.data import worker_process


def _work(ready) -> None:
    worker_process.start_worker(0)
    ready.set()
    time.sleep(60)


def test_sigterm_ends_a_worker_later(monkeypatch):
    monkeypatch.setattr(worker_process, "GRACE_S", 0.6)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    worker = context.Process(target=_work, args=(ready,), daemon=True)
    worker.start()
    assert ready.wait(20)
    os.kill(worker.pid, signal.SIGTERM)
    worker.join(0.3)
    assert worker.is_alive()
    worker.join(20)
    assert worker.exitcode == -signal.SIGALRM
