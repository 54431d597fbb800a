"""The place of a process, from the variables of each launcher."""

import pytest

from maskrcnn_benchmark.engine.launch import local_rank_of
from maskrcnn_benchmark.utils.launchers import Place, find_place, first_host

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
SLURM = {
    "SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "123456", "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_STEP_NODELIST": "gpu[007-008]",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, Place()),
        ({"WORLD_SIZE": "1"}, Place()),
        (TORCHRUN, Place(5, 8, 1, 4)),
        ({**SLURM, **TORCHRUN}, Place(5, 8, 1, 4)),
        ({"WORLD_SIZE": "2", "RANK": "1"}, Place(1, 2, 0, 2)),
        (SLURM, Place(5, 8, 1, 4, "tcp://gpu007:23456")),
        ({**SLURM, "MASTER_ADDR": "head", "MASTER_PORT": "1234"}, Place(5, 8, 1, 4, "tcp://head:1234")),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, Place(1, 2, 0, 2, "tcp://127.0.0.1:29500")),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}, Place()),
    ],
    ids=[
        "none",
        "one",
        "torchrun",
        "torchrun in a job",
        "older launcher",
        "srun",
        "own port",
        "few",
        "script of a job",
    ],
)
def test_place(environment, place):
    assert find_place(environment) == place


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two' is not a number"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "rank 2 is not among 2 processes"),
    ],
)
def test_mistakes_are_named(environment, message):
    with pytest.raises(ValueError, match=message):
        find_place(environment)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("a1", "a1"), ("a1,a2", "a1"), ("rack[3-4,7],b", "rack3"), ("n[01,05]", "n01"), ("n[01-02]-ib", "n01-ib")],
)
def test_first_host(nodes, host):
    assert first_host(nodes) == host


def test_an_argument_goes_before_the_environment(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert (local_rank_of(None), local_rank_of(3)) == (1, 3)
