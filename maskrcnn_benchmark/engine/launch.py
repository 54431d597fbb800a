"""Start of a tool: which device this process uses, and its place among the processes of a launcher."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from maskrcnn_benchmark.engine.devices import parse_device
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.dist import setup_for_distributed
from maskrcnn_benchmark.utils.launchers import find_place

__all__ = ["choose_device", "local_rank_of", "process_group", "setup_for_distributed"]

logger = logging.getLogger(__name__)


def local_rank_of(argument: int | None) -> int:
    """Rank on this machine: the argument if given, else what the launcher left in the environment, else 0."""
    return find_place().local_rank if argument is None else argument


def choose_device(name: str, local_rank: int) -> torch.device:
    """The device of this process for the configured name (MODEL.DEVICE); "cuda" without CUDA becomes the CPU.

    Raises: ValueError when there are fewer devices than processes, or the device does not exist.
    """
    device = parse_device(name)
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        logger.warning("MODEL.DEVICE is %r but there is no CUDA device: running on the CPU", name)
        return torch.device("cpu")
    index = local_rank if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise ValueError(f"CUDA device {index} does not exist: this machine has {torch.cuda.device_count()}")
    return torch.device("cuda", index)


@contextmanager
def process_group(device_name: str, local_rank_argument: int | None = None) -> Iterator[torch.device]:
    """Joins the processes of a launcher, if there is one, for the time of the block; yields the device to use.

    A GPU with its number ("cuda:0") is shared by all processes of this machine; they talk through gloo then.
    Raises: comm.ProcessLost where another process ends within its block.
    """
    place = find_place()
    device = choose_device(device_name, local_rank_of(local_rank_argument))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if place.world_size > 1:
        is_shared = parse_device(device_name).index is not None and place.local_world_size > 1
        comm.init_distributed(
            place.init_method,
            rank=place.rank,
            world_size=place.world_size,
            device=torch.device("cpu") if is_shared else device,
        )
    try:
        with comm.lost_process_in_one_line():
            yield device
    finally:
        comm.destroy_distributed()
