"""What goes wrong around a training run: each fault ends in one clear line, and none costs the work done."""

import multiprocessing
import os
import resource
import signal
import time

import pytest
from toy_run import MeanModel, load_tool, write_config

from maskrcnn_benchmark.cli.console import BAD_INPUT, report_errors
from maskrcnn_benchmark.engine.training import training_run


class InterruptedModel(MeanModel):
    """Calls `event` in its third forward pass."""

    def __init__(self, event):
        super().__init__()
        self.event, self.calls = event, 0

    def forward(self, *args, **kwargs):
        self.calls += 1
        if self.calls == 3:
            self.event()
        return super().forward(*args, **kwargs)


@pytest.fixture
def run(tmp_path, bert_vocabulary, monkeypatch):
    """Starts the tool with more entries, and a model that lets something happen; returns its exit code."""
    path = write_config(tmp_path, bert_vocabulary)
    tool = load_tool()

    def start(*entries: str, event=lambda: None) -> int:
        monkeypatch.setattr(training_run, "build_detection_model", lambda cfg: InterruptedModel(event))
        return report_errors(lambda: tool.main(["--config-file", str(path), *entries]))

    return start


def one_line(capsys) -> str:
    """What standard error shows, which must be one line."""
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and shown.startswith("glip: error: ") and len(shown) < 400, shown
    return shown


@pytest.mark.parametrize("workers", ["0", "2"])
def test_sigterm_saves_and_ends_well(run, tmp_path, workers):
    """The signal goes to all processes, as clusters send it; the same command goes on."""

    def terminate_all():
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGTERM)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    assert run("DATALOADER.NUM_WORKERS", workers, "SOLVER.MAX_ITER", "50", event=terminate_all) == 0
    assert signal.getsignal(signal.SIGTERM) == handler
    assert (tmp_path / "out" / "last_checkpoint").read_text() == "model_0000004.pth", "the iteration after the signal"
    assert run("DATALOADER.NUM_WORKERS", workers, "SOLVER.MAX_ITER", "8") == 0
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "Stopped at iteration 4 of 50" in log and "Start training at iteration 4 of 8" in log


def test_data_worker_killed_by_the_system(run, capsys):
    before = set(multiprocessing.active_children())

    def kill_worker():
        os.kill((set(multiprocessing.active_children()) - before).pop().pid, signal.SIGKILL)

    assert run("DATALOADER.NUM_WORKERS", "2", "SOLVER.MAX_ITER", "5000", event=kill_worker) == BAD_INPUT
    os.kill(os.getpid(), signal.SIGCHLD)  # as if it had ended just now: nobody is told again
    assert set(multiprocessing.active_children()) <= before
    message = one_line(capsys)
    noticed = ("was killed by signal: Killed", "exited unexpectedly", "ended without saying why")
    assert "data worker" in message and any(words in message for words in noticed), "whichever is noticed first"
    assert "DATALOADER.NUM_WORKERS" in message


def test_full_disk(run, tmp_path, capsys):
    """A limit on the size of files stands for it; log and event files cannot be written either."""
    signals = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, limits[1]))

    try:
        assert run("--use-tensorboard", "SOLVER.CHECKPOINT_PERIOD", "4", event=fill_disk) == BAD_INPUT
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, signals)
    shown = capsys.readouterr()
    assert shown.err == f"glip: error: '{tmp_path / 'out' / 'model_0000004.pth'}': File too large\n"
    assert shown.out.count("cannot be written: File too large") == 1, "the log file"
    assert not (tmp_path / "out" / "last_checkpoint").exists() and not list((tmp_path / "out").glob("*model_*"))


def test_missing_annotation_file(run, capsys):
    assert run("DATASETS.REGISTER.toy.ann_file", "gone/boxes.json") == BAD_INPUT
    message = one_line(capsys)
    assert "gone/boxes.json" in message and "./DATASET" in message, "the file, and where it was looked for"


def test_more_categories_than_the_classifier_has_classes(run, capsys):
    too_few = ("MODEL.DYHEAD.NUM_CLASSES", "3")
    assert run(*too_few, "SOLVER.MAX_ITER", "1") == 0, "without the classification loss nobody needs them"
    use = ("MODEL.DYHEAD.FUSE_CONFIG.USE_CLASSIFICATION_LOSS", "True", "--resume", "none")
    assert run(*too_few, *use) == BAD_INPUT
    message = one_line(capsys)
    assert "dataset toy has 3 categories" in message and "MODEL.DYHEAD.NUM_CLASSES (now 3) to 4" in message
    assert run("MODEL.DYHEAD.NUM_CLASSES", "4", *use) == 0


@pytest.mark.parametrize("workers", ["0", "2"])
def test_picture_that_is_no_picture(run, tmp_path, capsys, workers):
    (tmp_path / "scene.png").write_bytes(b"nothing")
    assert run("DATALOADER.NUM_WORKERS", workers) == BAD_INPUT
    message = one_line(capsys)
    assert f"cannot read image {tmp_path / 'scene.png'}" in message and "Traceback" not in message


def test_picture_that_is_no_picture_can_be_skipped(run, tmp_path):
    (tmp_path / "scene.png").write_bytes(b"nothing")
    assert run("DATALOADER.ON_ERROR", "skip", "SOLVER.MAX_ITER", "12") == 0
    assert (tmp_path / "out" / "log.txt").read_text().count(f"cannot read image {tmp_path / 'scene.png'}") == 1
