"""Workers of a loader outlive a SIGTERM for as long as the trainer needs to save."""

import multiprocessing
import os
import signal
import time

from maskrcnn_benchmark.data.worker_process import GRACE_S, start_worker

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
