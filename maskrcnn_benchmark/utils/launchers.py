"""What a launcher (torchrun, torch.distributed.launch, srun of SLURM) says in the environment of its processes."""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

DEFAULT_PORT = 29500  # torchrun's
SLURM_FIRST_PORT, SLURM_PORTS = 20000, 20000  # jobs on one machine take different ports by their numbers


class Place(NamedTuple):
    """The place of a process among all that were started.

    Attributes:
        rank, world_size: index of this process and number of all.
        local_rank, local_world_size: the same among the processes of this machine.
        init_method: where the processes meet, as ``torch.distributed.init_process_group`` takes it.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    init_method: str = "env://"


def find_place(environ: Mapping[str, str] | None = None) -> Place:
    """The place that the variables of a launcher describe; without a launcher, that of a single process.

    Variables of torchrun go before those of SLURM, within whose jobs torchrun may run.

    Raises: ValueError for a variable that is no number, or a rank that is not among the processes.
    """
    environ = os.environ if environ is None else environ
    if environ.get("WORLD_SIZE"):
        world_size = _number(environ, "WORLD_SIZE")
        local_rank = _number(environ, "LOCAL_RANK", _number(environ, "SLURM_LOCALID", 0))
        rank = _number(environ, "RANK", _number(environ, "SLURM_PROCID", 0))
        place = Place(rank, world_size, local_rank, _number(environ, "LOCAL_WORLD_SIZE", world_size))
    elif _is_step_of_slurm(environ):
        world_size = _number(environ, "SLURM_STEP_NUM_TASKS", _number(environ, "SLURM_NTASKS", 1))
        rank = _number(environ, "SLURM_PROCID")
        local_rank = _number(environ, "SLURM_LOCALID", 0)
        tasks = re.match(r"\d+", environ.get("SLURM_STEP_TASKS_PER_NODE", ""))  # "4(x2)", the same on every node or not
        place = Place(rank, world_size, local_rank, int(tasks[0]) if tasks else world_size, _slurm_address(environ))
    else:
        place = Place(local_rank=_number(environ, "LOCAL_RANK", 0))
    if not 0 <= place.rank < place.world_size:
        raise ValueError(f"rank {place.rank} is not among {place.world_size} processes; check RANK and WORLD_SIZE")
    return place


def first_host(node_list: str) -> str:
    """The first machine of a SLURM list such as ``node[001-004,7],other``."""
    found = re.match(r"([^\[,]*)(?:\[([^\],-]+)[^\]]*\])?([^\[,]*)", node_list)
    return "".join(part or "" for part in found.groups()) if found else node_list


def _is_step_of_slurm(environ: Mapping[str, str]) -> bool:
    """True in the processes that srun starts; the script of a job, which runs once, has the same variables but this."""
    if not environ.get("SLURM_PROCID") or not environ.get("SLURM_NTASKS"):
        return False
    return "SLURM_STEP_ID" in environ or "SLURM_JOB_ID" not in environ


def _slurm_address(environ: Mapping[str, str]) -> str:
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST") or ""
    host = environ.get("MASTER_ADDR") or first_host(nodes) or "127.0.0.1"
    job = _number(environ, "SLURM_JOB_ID", 0)
    port = _number(environ, "MASTER_PORT", SLURM_FIRST_PORT + job % SLURM_PORTS if job else DEFAULT_PORT)
    return f"tcp://{host}:{port}"


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environ.get(name)
    if not text:
        if default is None:
            raise ValueError(f"the environment variable {name} is missing")
        return default
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"the environment variable {name}={text!r} is not a number") from None
