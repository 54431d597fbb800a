"""What a lost data worker looks like to the trainer, whichever way it is noticed."""

import pytest

from maskrcnn_benchmark.data.worker_errors import WorkerLost, worker_errors_in_one_line


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
