"""Statistics of the loop: throughput counts training alone."""

import math

import pytest
import torch

from maskrcnn_benchmark.engine.training import progress as progress_module
from maskrcnn_benchmark.engine.training.progress import Progress
from maskrcnn_benchmark.utils.metric_logger import MetricLogger, TensorboardLogger


class Clock:
    """time.monotonic under the control of a test."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


def train(progress: Progress, clock: Clock, iterations: int, seconds: float) -> None:
    for number in range(1, iterations + 1):
        clock.now += seconds
        progress.update(number, {"loss_reg": torch.ones(())}, 4, 0.0)


def test_pauses_count_neither_time_nor_twice(clock):
    progress = Progress(MetricLogger(), 0, 10, torch.device("cpu"))
    train(progress, clock, 2, 0.5)
    with progress.paused():
        clock.now += 60
        with progress.paused():
            clock.now += 600
    train(progress, clock, 2, 0.5)
    assert progress.report(4, 0.1, 0.0)["images_per_s"] == pytest.approx(16 / 2)
    assert progress.meters.time.avg == pytest.approx(0.5)


def test_throughput_of_the_run_leaves_the_first_report_out(clock):
    progress = Progress(MetricLogger(), 0, 10, torch.device("cpu"))
    assert math.isnan(progress.images_per_s)
    train(progress, clock, 2, 10.0)
    progress.report(2, 0.1, 0.0)
    assert progress.images_per_s == pytest.approx(0.4), "there is no other"
    for seconds in (0.5, 1.0):
        train(progress, clock, 2, seconds)
        progress.report(4, 0.1, 0.0)
    assert progress.images_per_s == pytest.approx(16 / 3)


def test_losses_stand_at_their_iterations_where_batches_are_left_out(tmp_path, monkeypatch):
    meters, written = TensorboardLogger(str(tmp_path)), []
    monkeypatch.setattr(meters._writer, "add_scalar", lambda *entry: written.append(entry))
    progress = Progress(meters, 0, 10, torch.device("cpu"))
    for iteration in (1, 2, 4):
        progress.update(iteration, {"loss_reg": torch.tensor(float(iteration))}, 4, 0.0)
    progress.report(5, 0.1, 0.0)
    assert [entry[1:] for entry in written if entry[0] == "loss_reg"] == [(1.0, 1), (2.0, 2), (4.0, 4)]
