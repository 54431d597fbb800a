"""Helpers under their historical names, for code written against the MDETR-style interface; `comm` does the work."""

import builtins
import os
from typing import Any

import torch
from torch import Tensor

from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.comm import (
    all_gather,
    get_local_rank,
    get_rank,
    get_world_size,
    is_dist_avail_and_initialized,
    is_main_process,
)
from maskrcnn_benchmark.utils.launchers import find_place

__all__ = [
    "all_gather",
    "get_local_rank",
    "get_local_size",
    "get_rank",
    "get_world_size",
    "init_distributed_mode",
    "is_dist_avail_and_initialized",
    "is_main_process",
    "reduce_dict",
    "save_on_master",
    "setup_for_distributed",
]

_ORIGINAL_PRINT = builtins.print


def get_local_size() -> int:
    """Number of processes on this machine, as the launcher says it; 1 without one."""
    return find_place().local_world_size


def reduce_dict(input_dict: dict[str, Tensor], average: bool = True) -> dict[str, Tensor]:
    """Reduce a dict of scalar tensors; unlike `comm.reduce_dict`, every process receives the result."""
    return comm.all_reduce_dict(input_dict, average)


def save_on_master(*args: Any, **kwargs: Any) -> None:
    """``torch.save`` on rank 0, nothing elsewhere."""
    if is_main_process():
        torch.save(*args, **kwargs)


def setup_for_distributed(is_master: bool) -> None:
    """Make ``print`` silent in this process unless it is the master; ``print(..., force=True)`` always prints."""

    def selective_print(*args: Any, force: bool = False, **kwargs: Any) -> None:
        if is_master or force:
            _ORIGINAL_PRINT(*args, **kwargs)

    builtins.print = selective_print


def init_distributed_mode(args: Any) -> None:
    """Create the process group that the launcher's environment describes, and fill in the matching ``args``.

    Reads the variables of torchrun or SLURM; without either, nothing is created. Sets ``args.distributed``, and then
    ``args.rank``, ``args.world_size`` and ``args.gpu``; an attribute ``args.dist_url`` is the rendezvous address.
    """
    place = find_place()
    args.distributed = place.world_size > 1 or bool(os.environ.get("WORLD_SIZE"))
    if not args.distributed:
        return
    args.rank, args.world_size, args.gpu = place.rank, place.world_size, place.local_rank
    if torch.cuda.is_available():
        torch.cuda.set_device(args.gpu)
    url = getattr(args, "dist_url", None) or "env://"
    comm.init_distributed(place.init_method if url == "env://" else url, rank=place.rank, world_size=place.world_size)
    comm.synchronize()
    setup_for_distributed(args.rank == 0)
