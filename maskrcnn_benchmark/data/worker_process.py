"""What a loader's worker process sets up before its first item."""

import os
import signal

import torch

GRACE_S = 60.0


def start_worker(worker: int) -> None:
    """One thread per worker; the tokenizer's own threads do not survive a fork; SIGTERM leaves GRACE_S to the trainer.

    A cluster that announces the end of a job signals all its processes. The trainer alone decides then: it needs data
    until it saves, and takes the workers down before. Nobody waits for one that is left over longer than that.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: signal.setitimer(signal.ITIMER_REAL, GRACE_S))  # SIGALRM ends the process
