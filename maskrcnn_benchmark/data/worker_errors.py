"""What goes wrong in a loader's worker processes, told in one line."""

import re
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from torch.utils.data._utils import signal_handling

FROM_WORKER = re.compile(r"""['"]?Caught \w+ in DataLoader worker""")
LOST_WORKER = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (is killed by signal: \w+|exited unexpectedly)"
)


ADVICE = "where memory ran out (also shared memory, /dev/shm), lower DATALOADER.NUM_WORKERS"


class WorkerLost(ChildProcessError):
    """A worker process of a loader died without saying why."""


@contextmanager
def worker_errors_in_one_line() -> Iterator[None]:
    """Within the block, what workers raise comes without the traceback that PyTorch writes into the message.

    The loader ends with the block: workers that are left over at the end of the program keep it waiting, see
    `worker_process.start_worker`.

    Raises: WorkerLost for a worker that was killed; an error raised in a worker, of its own class, as it was raised.
    """
    try:
        with _lost_worker_raised_once() as watch, _loader_forgotten(watch):
            yield
    except (ValueError, OSError, EOFError) as error:
        message = raised_in_worker(error)
        if message is not None:
            raise type(error)(message) from error
        if isinstance(error, ConnectionError | EOFError):  # the end of a worker seen from its pipe
            raise WorkerLost(f"a data worker ended without saying why ({error}); {ADVICE}") from error
        raise
    except RuntimeError as error:
        lost = LOST_WORKER.search(str(error))
        if lost is None:
            raise
        raise WorkerLost(
            f"the data worker with process id {lost[1]} {lost[2].replace('is killed', 'was killed')}; {ADVICE}"
        ) from error


class _Watch:
    """Whether the loss of a worker is still to be told."""

    is_over = False


@contextmanager
def _lost_worker_raised_once() -> Iterator[_Watch]:
    """Within the block, PyTorch's handler of SIGCHLD raises the error of a lost worker at most once.

    The handler raises it at the end of any other worker too, until the lost one is taken off: on the way of the first
    error, where Python can only print it. Threads other than the main one have no handlers.
    """
    watch = _Watch()
    if threading.current_thread() is not threading.main_thread():
        yield watch
        return
    signal_handling._set_SIGCHLD_handler()  # which the first loader would do
    raise_if_lost = signal.getsignal(signal.SIGCHLD)

    def raise_once(number: int, frame: FrameType | None) -> None:
        if watch.is_over:
            return
        try:
            raise_if_lost(number, frame)
        except RuntimeError:
            watch.is_over = True
            raise

    signal.signal(signal.SIGCHLD, raise_once)
    try:
        yield watch
    finally:
        signal.signal(signal.SIGCHLD, raise_if_lost)


@contextmanager
def _loader_forgotten(watch: _Watch) -> Iterator[None]:
    """Errors that come from a worker leave the block without the local variables of their tracebacks.

    In these the loader would live on, and raise the error of a lost worker wherever the program is by then.
    """
    try:
        yield
    except Exception as error:
        if _is_of_worker(error):
            watch.is_over = True
            traceback.clear_frames(error.__traceback__)
        raise


def _is_of_worker(error: Exception) -> bool:
    text = str(error)
    is_told = FROM_WORKER.match(text) is not None or LOST_WORKER.search(text) is not None
    return is_told or isinstance(error, ConnectionError | EOFError)


def raised_in_worker(error: BaseException) -> str | None:
    """The original message of an error that PyTorch brought over from a worker, None if it is not one."""
    text = str(error)
    if not text.startswith(f"Caught {type(error).__name__} in DataLoader worker"):
        return None
    last = text.rfind(f"{type(error).__name__}: ")
    return text[last:].partition(": ")[2].strip()
