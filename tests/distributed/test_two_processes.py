"""Training with two processes on the CPU: they stay in step, whatever happens on one of them."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing
from toy_training import ToyModel, toy_loader, toy_trainer

from maskrcnn_benchmark.engine.parallel import ParallelOptions, replicate
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.weight_files import read_checkpoint


def _train(rank: int, folder: str, port: int, options: dict) -> None:
    """Body of one process; an option whose name ends in @0 or @1 is for that process only."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    own = {
        key.removesuffix(f"@{rank}"): value for key, value in options.items() if "@" not in key or key[-1] == str(rank)
    }
    comm.init_distributed(rank=rank, world_size=2)
    try:
        loader = toy_loader(own.pop("iterations", 6), own.pop("empty", ()), first=2 * rank)
        trainer = toy_trainer(folder, 6, loader=loader, save_to_disk=rank == 0, report_period=2, **own)
        trainer.model = replicate(trainer.model, torch.device("cpu"), ParallelOptions())
        trainer.train()
        model: ToyModel = trainer.model.module
        torch.save(
            {"weights": model.state_dict(), "calls": model.calls, "skipped": trainer.monitor.skipped},
            Path(folder, f"rank{rank}.pth"),
        )
    finally:
        comm.destroy_distributed()


def run(folder: Path, free_port: int, **options) -> list[dict]:
    multiprocessing.spawn(_train, (str(folder), free_port, options), nprocs=2)
    outcomes = [torch.load(folder / f"rank{rank}.pth") for rank in (0, 1)]
    for name, value in outcomes[0]["weights"].items():
        assert torch.equal(value, outcomes[1]["weights"][name]), f"{name} differs between the processes"
    return outcomes


@pytest.fixture
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_nan_on_one_process_skips_the_step_on_both(tmp_path, free_port):
    outcomes = run(tmp_path, free_port, **{"bad_steps@1": (2, 3), "max_bad_losses": 2})
    assert [outcome["skipped"] for outcome in outcomes] == [2, 2]
    assert all(torch.isfinite(value).all() for value in outcomes[0]["weights"].values())


def test_batch_without_boxes_on_one_process_is_left_out_on_both(tmp_path, free_port):
    outcomes = run(tmp_path, free_port, **{"empty@0": (0, 1), "max_negative_share": 0.1})
    assert outcomes[0]["calls"] == outcomes[1]["calls"] < 6


def test_deadline_of_the_first_process_stops_both(tmp_path, free_port):
    outcomes = run(tmp_path, free_port, **{"deadline@0": 0.0, "deadline@1": 1e12})
    assert [outcome["calls"] for outcome in outcomes] == [2, 2], "asked at the first report"
    checkpoint = read_checkpoint(tmp_path / "model_0000002.pth")
    assert len(checkpoint["random_state"]) == 2 and checkpoint["iteration"] == 2
