"""What a loader's worker process sets up before its first item."""

import os
import signal
from multiprocessing.util import Finalize

import torch

GRACE_S = 60.0


def start_worker(worker: int) -> None:
    """One thread per worker; the tokenizer's own threads do not survive a fork; SIGTERM leaves GRACE_S to the trainer.

    A cluster that announces the end of a job signals all its processes. The trainer alone decides then: it needs data
    until it saves, and takes the workers down before. Nobody waits for one that is left over longer than that.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    leave_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: signal.setitimer(signal.ITIMER_REAL, GRACE_S))  # SIGALRM ends the process


def leave_with_parent() -> None:
    """Lets a worker end that has lost its parent, to SIGKILL say, without handing over what it has loaded.

    It would wait for ever otherwise, and keep its memory: nobody reads the pipe that it writes to.
    """
    parent = os.getppid()
    Finalize(None, lambda: os.getppid() == parent or os._exit(1), exitpriority=0)  # before those that write and wait
