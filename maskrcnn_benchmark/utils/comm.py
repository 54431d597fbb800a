"""Communication between training processes: the only module of the package that talks to ``torch.distributed``.

Every function works in a single process too, where the world has size 1 and nothing is sent. Tensors travel on the
device they live on; Python objects travel through the CPU when the process group has a CPU backend.
"""

import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from maskrcnn_benchmark.utils.launchers import find_place
from maskrcnn_benchmark.utils.rendezvous import agree_on_prefix
from maskrcnn_benchmark.utils.thread_states import KeptThreadStates

logger = logging.getLogger(__name__)

GLOO_PAUSE_S = 0.2
KEEPING_ATTEMPTS, KEEPING_SIZE = 1000, 1 << 16  # tensors that take gloo longer than it takes to ask for a callback
KEEPING_S = 0.001  # for another thread to come to the next collective
LOST_PROCESS = re.compile(r"(Connection (closed|reset) by peer|remote process exited)[^\n]*")  # gloo, NCCL
TIMEOUT = timedelta(hours=2)  # a rank may be alone for long: evaluating, or writing a checkpoint


class ProcessLost(ConnectionError):
    """Another process of the run ended while this one was talking to it."""


@contextmanager
def lost_process_in_one_line() -> Iterator[None]:
    """Within the block ProcessLost is raised for what the backends say about another process that has ended."""
    try:
        yield
    except RuntimeError as error:
        lost = LOST_PROCESS.search(str(error))
        if lost is None:
            raise
        raise ProcessLost(f"another process of the run has ended ({lost[0]}); its own message says why") from error


def is_dist_avail_and_initialized() -> bool:
    """True once a process group exists."""
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes, 1 without a process group."""
    return dist.get_world_size() if is_dist_avail_and_initialized() else 1


def get_rank() -> int:
    """Rank of this process, 0 without a process group."""
    return dist.get_rank() if is_dist_avail_and_initialized() else 0


def get_local_rank() -> int:
    """Rank of this process on its machine, as the launcher says it; 0 without one."""
    return find_place().local_rank


def is_main_process() -> bool:
    """True on rank 0."""
    return get_rank() == 0


def init_distributed(
    init_method: str = "env://", *, rank: int = -1, world_size: int = -1, device: torch.device | None = None
) -> None:
    """Create the process group: gloo for CPU tensors and objects, NCCL beside it where CUDA is present.

    Args:
        init_method: where the processes meet; rank, world_size: from the launcher's environment when left at -1.
        device: the GPU of this process alone, which NCCL takes from the start. With the CPU, or a GPU that processes
            share, which NCCL refuses, gloo does everything. None: NCCL for the current GPU of each process, if any.
    """
    store = None
    if init_method == "env://" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        store, rank, world_size = _store_of_torchrun()
    uses_nccl = torch.cuda.is_available() and dist.is_nccl_available() and (device is None or device.type == "cuda")
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if uses_nccl else "gloo",
        init_method=None if store is not None else init_method,
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=TIMEOUT,
        device_id=device if uses_nccl else None,
    )
    if sys.version_info < (3, 12):  # later ones make the lock anew in a forked process: python/cpython issue 112275
        _keep_states_of_gloo()


def _keep_states_of_gloo() -> None:
    """Makes the threads of gloo safe to fork beside, see `thread_states`. They meet Python in callbacks of collectives.

    A callback runs in the calling thread where its collective has ended before, so there may be several attempts.
    """
    world: Any = dist.group.WORLD
    threads: int = world._get_backend(torch.device("cpu")).options._threads
    states = KeptThreadStates()

    def keep(_: object) -> None:
        states.keep()
        time.sleep(KEEPING_S)

    for _ in range(KEEPING_ATTEMPTS):
        works = [dist.all_reduce(torch.zeros(KEEPING_SIZE), async_op=True) for _ in range(threads)]
        for kept in [work.get_future().then(keep) for work in works]:
            kept.wait()
        missing = torch.tensor(threads - len(states.threads))
        dist.all_reduce(missing)
        if not missing.item():
            return
    logger.warning("gloo has threads that Python loses sight of: a worker of a loader may stand still when it starts")


def _store_of_torchrun() -> tuple[dist.Store, int, int]:
    """(store that only this start of the workers uses, rank, number of processes)."""
    rank, world_size = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, world_size, is_master=False, timeout=TIMEOUT)
    return dist.PrefixStore(agree_on_prefix(store, rank, world_size, TIMEOUT), store), rank, world_size


def destroy_distributed() -> None:
    """Take the process group down; nothing happens without one.

    The threads of gloo drop their last tensors after a collective has returned, and need the interpreter for it. The
    end of the group waits for these threads and keeps the interpreter meanwhile, so they get a moment before it.
    """
    if is_dist_avail_and_initialized():
        if "gloo" in dist.get_backend_config():
            time.sleep(GLOO_PAUSE_S)
        dist.destroy_process_group()


def synchronize() -> None:
    """Wait until every process arrives here."""
    if get_world_size() > 1:
        dist.barrier()


def all_gather(data: Any) -> list[Any]:
    """Give every process the list of all processes' ``data`` (any picklable object), ordered by rank."""
    world_size = get_world_size()
    if world_size == 1:
        return [data]
    gathered: list[Any] = [None] * world_size
    dist.all_gather_object(gathered, data)
    return gathered


def broadcast_object(data: Any, source: int = 0) -> Any:
    """Return rank ``source``'s ``data`` (any picklable object) on every process."""
    if get_world_size() == 1:
        return data
    box = [data]
    dist.broadcast_object_list(box, src=source)
    return box[0]


def broadcast_data(data: list[float]) -> list[float]:
    """Return rank 0's list of numbers on every process."""
    return list(broadcast_object(data))


def reduce_sum(tensor: Tensor) -> Tensor:
    """Return the sum of ``tensor`` over all processes; the argument stays as it is."""
    if get_world_size() == 1:
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def _stack_by_name(tensors: dict[str, Tensor]) -> tuple[list[str], Tensor]:
    names = sorted(tensors)  # the order of a dict may differ between processes
    return names, torch.stack([tensors[name] for name in names])


def reduce_dict(tensors: dict[str, Tensor], average: bool = True) -> dict[str, Tensor]:
    """Reduce a dict of equally shaped tensors (losses) to rank 0; on other ranks the values mean nothing."""
    world_size = get_world_size()
    if world_size == 1 or not tensors:
        return tensors
    with torch.no_grad():
        names, values = _stack_by_name(tensors)
        dist.reduce(values, dst=0)
        if average and is_main_process():
            values = values / world_size
        return dict(zip(names, values, strict=True))


def all_reduce_dict(tensors: dict[str, Tensor], average: bool = True) -> dict[str, Tensor]:
    """Like `reduce_dict`, but every process receives the result."""
    world_size = get_world_size()
    if world_size == 1 or not tensors:
        return tensors
    with torch.no_grad():
        names, values = _stack_by_name(tensors)
        dist.all_reduce(values)
        return dict(zip(names, values / world_size if average else values, strict=True))


def mean_over_processes(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The means of tensors (gradients) over all processes, in one exchange for each type and device of theirs."""
    world_size = get_world_size()
    if world_size == 1:
        return list(tensors)
    kinds: dict[tuple, list[int]] = {}
    for index, tensor in enumerate(tensors):
        kinds.setdefault((tensor.dtype, tensor.device), []).append(index)
    means: dict[int, Tensor] = {}
    with torch.no_grad():
        for indices in kinds.values():
            joined = torch.cat([tensors[index].flatten() for index in indices])
            dist.all_reduce(joined)
            parts = joined.div_(world_size).split([tensors[index].numel() for index in indices])
            means |= {index: part.view(tensors[index].shape) for index, part in zip(indices, parts, strict=True)}
    return [means[index] for index in range(len(tensors))]


def shared_random_seed() -> int:
    """A random seed in [0, 2**31), drawn from numpy by rank 0 and equal on every process."""
    return int(broadcast_object(int(np.random.randint(2**31))))


def broadcast_module(module: nn.Module) -> None:
    """Give the parameters and buffers of every process the values of rank 0."""
    if get_world_size() == 1:
        return
    for tensor in [*module.parameters(), *module.buffers()]:
        dist.broadcast(tensor.detach(), src=0)


def is_sharded(tensor: Tensor) -> bool:
    """True for a tensor of which every process has a part (a DTensor)."""
    return hasattr(tensor, "full_tensor")  # importing DTensor takes longer than most commands


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, on every process; other tensors as they are."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def local_part(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor that this process has, sharing its memory; other tensors as they are."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """The own part of a whole tensor that all processes have, cut as `like` is; nothing is sent."""
    if not is_sharded(like) or is_sharded(tensor):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)  # type: ignore[attr-defined]
