"""SIGTERM, by which clusters announce the end of a job, as a wish that the training loop looks at."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class StopRequest:
    """Whether somebody asked this process to stop."""

    def __init__(self) -> None:
        self.is_made = False

    def make(self, *_: object) -> None:
        """Asks; the arguments of a signal handler are accepted."""
        self.is_made = True


@contextmanager
def stop_on_sigterm() -> Iterator[StopRequest]:
    """Within the block SIGTERM only makes the request; threads other than the main one cannot listen to signals."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = signal.signal(signal.SIGTERM, request.make)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, previous)
