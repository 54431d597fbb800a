"""Communication in one process, and between two that use gloo."""

import builtins
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch

from maskrcnn_benchmark.utils import comm, dist


def test_single_process():
    losses = {"b": torch.tensor(2.0), "a": torch.tensor(1.0)}
    assert (comm.get_world_size(), comm.get_rank(), comm.is_main_process()) == (1, 0, True)
    comm.synchronize()
    assert comm.all_gather({"x": 1}) == [{"x": 1}]
    assert comm.broadcast_data([1, 2.5]) == [1, 2.5]
    assert comm.reduce_dict(losses) == dist.reduce_dict(losses) == losses
    assert comm.reduce_sum(losses["b"]).item() == 2.0
    assert 0 <= comm.shared_random_seed() < 2**31
    comm.destroy_distributed()


TWO_PROCESSES = """
    import os, sys
    from types import SimpleNamespace
    import numpy as np, torch
    torch.set_num_threads(1)
    from maskrcnn_benchmark.utils import comm, dist
    args = SimpleNamespace(dist_url="file://" + sys.argv[1])
    dist.init_distributed_mode(args)
    rank = comm.get_rank()
    assert args.distributed and args.world_size == comm.get_world_size() == 2 and args.rank == rank
    assert comm.is_main_process() == (rank == 0)
    assert comm.all_gather({"rank": rank, "text": "x" * 1000 * rank}) == [
        {"rank": 0, "text": ""}, {"rank": 1, "text": "x" * 1000}]
    assert comm.broadcast_data([rank, 0.5]) == [0, 0.5]
    values = torch.tensor([float(rank), 1.0])
    assert comm.reduce_sum(values).tolist() == [1.0, 2.0] and values.tolist() == [float(rank), 1.0]
    names = ("b", "a") if rank else ("a", "b")  # another order on each process
    losses = {name: torch.tensor(rank + (10.0 if name == "b" else 0.0)) for name in names}
    reduced = comm.reduce_dict(losses)
    if rank == 0:
        assert {name: value.item() for name, value in reduced.items()} == {"a": 0.5, "b": 10.5}
    assert {name: value.item() for name, value in dist.reduce_dict(losses).items()} == {"a": 0.5, "b": 10.5}
    assert dist.reduce_dict(losses, average=False)["a"].item() == 1.0
    np.random.seed(rank)
    seeds = comm.all_gather(comm.shared_random_seed())
    assert seeds[0] == seeds[1]
    comm.synchronize()
    print("hidden unless master", rank)
    print("done", rank, force=True)
    comm.destroy_distributed()
"""


def test_two_processes(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(TWO_PROCESSES), str(tmp_path / "store")],
            env=_launcher_environment(rank),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert [out for out, _ in outputs] == ["hidden unless master 0\ndone 0\n", "done 1\n"]


def _launcher_environment(rank):
    import os

    return os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "CUDA_VISIBLE_DEVICES": ""}


def test_without_a_launcher_nothing_is_created(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    args = SimpleNamespace()
    dist.init_distributed_mode(args)
    assert args.distributed is False and not comm.is_dist_avail_and_initialized()


@pytest.mark.parametrize("is_master", [True, False])
def test_save_and_print(is_master, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(builtins, "print", builtins.print)  # restored afterwards
    dist.setup_for_distributed(is_master)
    print("plain")
    print("forced", force=True)
    assert capsys.readouterr().out == ("plain\nforced\n" if is_master else "forced\n")
    monkeypatch.setattr(dist, "is_main_process", lambda: is_master)
    dist.save_on_master({"a": 1}, tmp_path / "x.pth")
    assert (tmp_path / "x.pth").exists() == is_master


TORCHRUN = {"WORLD_SIZE": "8", "RANK": "7", "LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "3"}
SLURM = {"SLURM_PROCID": "7", "SLURM_NTASKS": "8", "SLURM_LOCALID": "3", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}


@pytest.mark.parametrize("variables", [TORCHRUN, SLURM], ids=["torchrun", "srun"])
def test_place_on_the_machine(monkeypatch, variables):
    assert (dist.get_local_size(), dist.get_local_rank()) == (1, 0)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (dist.get_local_size(), dist.get_local_rank()) == (4, 3)
