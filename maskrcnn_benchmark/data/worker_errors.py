"""What goes wrong in a loader's worker processes, told in one line."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

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
        with _loader_forgotten():
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


@contextmanager
def _loader_forgotten() -> Iterator[None]:
    """Errors that a worker raised leave the block without the local variables of their tracebacks.

    PyTorch raises them in a circle of references, by which the loader would live on after them.
    """
    try:
        yield
    except Exception as error:
        if FROM_WORKER.match(str(error)) or LOST_WORKER.search(str(error)):
            traceback.clear_frames(error.__traceback__)
        raise


def raised_in_worker(error: BaseException) -> str | None:
    """The original message of an error that PyTorch brought over from a worker, None if it is not one."""
    text = str(error)
    if not text.startswith(f"Caught {type(error).__name__} in DataLoader worker"):
        return None
    last = text.rfind(f"{type(error).__name__}: ")
    return text[last:].partition(": ")[2].strip()
