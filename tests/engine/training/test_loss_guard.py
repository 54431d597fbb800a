"""The look at a loss comes one iteration late where the device would have to be waited for, and never later."""

import logging

import pytest
import torch
from toy_training import toy_loader

from maskrcnn_benchmark.engine.training import loss_guard
from maskrcnn_benchmark.engine.training.guarded_step import LossNotFinite
from maskrcnn_benchmark.engine.training.loss_guard import LossGuard

LOSSES = {"loss_a": torch.tensor(1.5), "loss_b": torch.tensor(torch.nan)}
GOOD, BAD = torch.tensor(False), torch.tensor(True)


@pytest.fixture
def batches():
    return list(toy_loader(3))


def create(max_bad_losses=0, is_overflow_normal=False, folder=None) -> LossGuard:
    return LossGuard(max_bad_losses, is_overflow_normal, folder, lambda index: f"picture {index}")


def test_host_waits_for_the_iteration_before_only(monkeypatch, batches):
    waited = []

    class Copy:
        def __init__(self):
            self.number = copies.append(self) or len(copies)

        def synchronize(self):
            waited.append(self.number)

    copies: list[Copy] = []
    monkeypatch.setattr(loss_guard, "_copy_to_host", lambda values: (values, Copy()))
    guard = create()
    good = {"loss_a": torch.tensor(1.0)}
    guard.watch(1, good, GOOD, batches[0])
    assert waited == []
    guard.watch(2, LOSSES, BAD, batches[1])
    assert waited == [1]
    message = r"iteration 2, process 0: loss not finite \(loss_a 1.5, loss_b nan\), pictures picture 2, picture 3;"
    with pytest.raises(LossNotFinite, match=message):
        guard.watch(3, good, GOOD, batches[2])
    assert waited == [1, 2]
    guard.check()
    assert waited == [1, 2, 3], "a checkpoint waits for the last one"
    guard.check()
    assert waited == [1, 2, 3]


def test_gradient_that_is_not_finite(caplog, batches):
    good = {"loss_a": torch.tensor(1.0)}
    guard = create(is_overflow_normal=True)
    guard.watch(1, good, BAD, batches[0])
    assert guard.bad_losses == 0, "that is how a loss scale finds its value"
    with pytest.raises(LossNotFinite, match=r"iteration 2: a gradient is not finite, the losses are \(loss_a 1\)"):
        create().watch(2, good, BAD, batches[0])
    with caplog.at_level(logging.ERROR):
        create(max_bad_losses=1).watch(2, good, BAD, batches[0])
    assert "skipped, 1 of 1 (SOLVER.MAX_BAD_LOSSES)" in caplog.text


def test_batch_that_cannot_be_saved_is_no_second_fault(tmp_path, batches):
    (tmp_path / "file").write_text("")
    with pytest.raises(LossNotFinite, match=r"batch not saved \(.*file"):
        create(folder=tmp_path / "file").watch(1, LOSSES, BAD, batches[0])
    first, second = batches[0][1]
    first.bbox = torch.zeros(1, 4)
    second.bbox = torch.from_numpy(first.bbox.numpy().view("int32"))
    with pytest.raises(LossNotFinite, match=r"batch not saved \(.*different types"):
        create(folder=tmp_path).watch(1, LOSSES, BAD, batches[0])
