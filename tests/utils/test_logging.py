"""Log files and running metrics."""

import logging
import math

import numpy as np
import pytest
import torch

from maskrcnn_benchmark.utils.logger import setup_logger
from maskrcnn_benchmark.utils.metric_logger import AverageMeter, MetricLogger, SmoothedValue, TensorboardLogger


@pytest.fixture
def logger_name(request):
    name = f"test.{request.node.name}"
    yield name
    setup_logger(name, "", distributed_rank=1)


def test_main_process_writes_to_stdout_and_file(tmp_path, capsys, logger_name):
    for _ in range(2):  # a second call must not double the lines
        logger = setup_logger(logger_name, tmp_path / "run")
    child = logging.getLogger(f"{logger_name}.child")
    child.debug("every weight by name")
    child.info("hello %d", 3)
    logger.warning("careful")
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [
        f"{logger_name}.child DEBUG: every weight by name",
        f"{logger_name}.child INFO: hello 3",
        f"{logger_name} WARNING: careful",
    ]
    assert capsys.readouterr().out.splitlines() == lines[1:]


def test_appends_to_a_named_file(tmp_path, logger_name):
    for text in ("one", "two"):
        setup_logger(logger_name, tmp_path, filename="other.txt").info(text)
    assert len((tmp_path / "other.txt").read_text().splitlines()) == 2


def test_other_ranks_are_silent(tmp_path, capsys, logger_name):
    setup_logger(logger_name, tmp_path / "run", distributed_rank=1).info("hidden")
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


def test_smoothed_value():
    value = SmoothedValue(window_size=4)
    for number in (100.0, 1.0, 2.0, 3.0, 4.0):
        value.update(number)
    assert (value.median, value.avg, value.global_avg) == (2.0, 2.5, 22.0)
    assert (value.count, value.total) == (5, 110.0)


def test_nan_shows_while_in_the_window():
    value = SmoothedValue(window_size=2)
    for number in (4.0, math.nan):
        value.update(number)
    assert math.isnan(value.median) and math.isnan(value.avg)
    assert value.global_avg == 2.0
    value.update(2.0)
    value.update(2.0)
    assert value.median == 2.0


def test_metric_logger():
    meter = MetricLogger()
    for i in range(10):
        meter.update(metric=float(i), loss=torch.tensor(1.0), other=np.float32(2))
    metric = meter.meters["metric"]
    assert (metric.count, metric.total, metric.median, metric.avg) == (10, 45, 4, 4.5)
    assert meter.loss.global_avg == 1.0
    assert str(meter) == "metric: 4.0000 (4.5000)\tloss: 1.0000 (1.0000)\tother: 2.0000 (2.0000)"
    with pytest.raises(AttributeError, match="'missing'"):
        meter.missing  # noqa: B018
    with pytest.raises(TypeError, match="metric 'text' must be a number"):
        meter.update(text="3")


def test_average_meter():
    meter = AverageMeter()
    meter.update(2.0)
    meter.update(5.0, n=2)
    assert (meter.val, meter.avg, meter.sum, meter.count) == (5.0, 4.0, 12.0, 3)
    meter.reset()
    assert (meter.val, meter.avg, meter.count) == (0.0, 0.0, 0)


class RecordingWriter:
    def __init__(self):
        self.scalars = []

    def add_scalar(self, name, value, step):
        self.scalars.append((name, value, step))


def test_tensorboard_step_is_the_iteration(tmp_path):
    meters = TensorboardLogger(str(tmp_path), start_iter=7)
    meters.close()
    assert [path.name.split(".")[:3] for path in tmp_path.iterdir()] == [["events", "out", "tfevents"]]
    meters._writer = writer = RecordingWriter()
    for i in range(3):
        meters.update(loss=float(i), loss_reg=0.0)
        meters.update(time=0.1)
    meters.iteration = 20
    meters.update(loss=9.0)
    meters.update(loss=10.0)
    loss_steps = [(value, step) for name, value, step in writer.scalars if name == "loss"]
    assert loss_steps == [(0.0, 7), (1.0, 8), (2.0, 9), (9.0, 20), (10.0, 21)]
    assert [step for name, _, step in writer.scalars if name == "time"] == [7, 8, 9]
