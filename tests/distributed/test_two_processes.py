"""Training with two processes on the CPU: they stay in step, whatever happens on one of them."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from nested_equality import assert_equal
from toy_training import toy_loader, toy_trainer
from two_processes import run_two

from maskrcnn_benchmark.engine.training.guarded_step import LossNotFinite
from maskrcnn_benchmark.engine.training.parallel import ParallelOptions, replicate
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.weight_files import read_checkpoint

RUNS: dict[str, dict[str, Any]] = {  # name -> options; one whose name ends in @0 or @1 is for that process only
    "skips": {"bad_steps@1": (2, 3), "max_bad_losses": 2},
    "stops": {"bad_steps@1": (3,)},
    "empty": {"empty@0": (0, 1), "max_negative_share": 0.1},
    "deadline": {"deadline@0": 0.0, "deadline@1": 1e12},
    "plain": {"ema_decay": 0.9},
    "sigterm": {"sigterm_in@1": 3, "ema_decay": 0.9},
    "resumed": {"resume": True, "ema_decay": 0.9},
}


def train_all(rank: int, folder: str) -> dict[str, dict]:
    """Body of one process: the runs one after the other, each in a folder; "resumed" is what stopped."""
    outcomes = {}
    for name, options in RUNS.items():
        outcomes[name] = train(rank, f"{folder}/{name}".replace("resumed", "sigterm"), dict(options))
        comm.synchronize()  # process 0 has saved
    return outcomes


def train(rank: int, folder: str, options: dict[str, Any]) -> dict[str, Any]:
    own = {key.split("@")[0]: value for key, value in options.items() if "@" not in key or key[-1] == str(rank)}
    empty, sigterm_in = own.pop("empty", ()), own.pop("sigterm_in", 0)
    loader = toy_loader(6, empty, first=2 * rank)
    trainer = toy_trainer(folder, 6, loader=loader, save_to_disk=rank == 0, report_period=2, **own)
    model, error = trainer.model, ""
    model.register_forward_hook(lambda *_: model.calls == sigterm_in and os.kill(os.getpid(), signal.SIGTERM) or None)
    trainer.model = replicate(model, torch.device("cpu"), ParallelOptions())
    try:
        trainer.train()
    except LossNotFinite as caught:
        error = str(caught)
    return {"weights": model.state_dict(), "calls": model.calls, "skipped": trainer.monitor.skipped, "error": error}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def outcomes(folder) -> dict[str, list[dict]]:
    """For each run what both processes have to say."""
    returned = run_two(train_all, folder, str(folder))
    return {name: [one[name] for one in returned] for name in RUNS}


@pytest.mark.parametrize("name", RUNS)
def test_weights_stay_equal_and_finite(outcomes, name):
    first, second = outcomes[name]
    for weight, value in first["weights"].items():
        assert torch.equal(value, second["weights"][weight]), weight
        assert value.isfinite().all(), weight


def test_nan_on_one_process_skips_the_step_on_both(outcomes):
    assert [outcome["skipped"] for outcome in outcomes["skips"]] == [2, 2]
    assert [outcome["error"] for outcome in outcomes["skips"]] == ["", ""]


def test_nan_on_one_process_ends_both(outcomes, folder):
    first, second = outcomes["stops"]
    assert first["error"] == second["error"] and first["calls"] == second["calls"] == 3
    assert first["error"].startswith("iteration 3, process 1: loss not finite (loss_reg nan, loss_centerness ")
    assert "pictures item 6, item 7, batch saved in " in first["error"], "process 1 is two pictures ahead"
    assert read_checkpoint(folder / "stops" / "bad_batch_0000003_rank1.pth")["dataset_indices"] == [6, 7]
    assert not list((folder / "stops").glob("*rank0*"))


def test_batch_without_boxes_on_one_process_is_left_out_on_both(outcomes):
    first, second = outcomes["empty"]
    assert first["calls"] == second["calls"] < 6


def test_deadline_of_the_first_process_stops_both(outcomes, folder):
    assert [outcome["calls"] for outcome in outcomes["deadline"]] == [2, 2], "asked at the first report"
    checkpoint = read_checkpoint(folder / "deadline" / "model_0000002.pth")
    assert len(checkpoint["random_state"]) == 2 and checkpoint["iteration"] == 2


def test_sigterm_to_one_process_saves_and_stops_both(outcomes, folder):
    assert [outcome["calls"] for outcome in outcomes["sigterm"]] == [4, 4], "they agree at the next iteration"
    assert read_checkpoint(folder / "sigterm" / "model_0000004.pth")["iteration"] == 4


def test_stopped_and_resumed_run_equals_an_undisturbed_one(outcomes, folder):
    assert [outcome["calls"] for outcome in outcomes["resumed"]] == [2, 2]
    one, other = (read_checkpoint(folder / name / "model_final.pth") for name in ("plain", "sigterm"))
    assert len(one["random_state"]) == 2
    assert_equal(one, other)
