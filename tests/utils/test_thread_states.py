"""What runs beside the main thread has a place in the interpreter from the start: loaders fork workers there."""

import ctypes
import sys

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from two_processes import run_two

from maskrcnn_benchmark.utils import comm


def known_threads() -> int:
    """The number of threads that Python knows in this process."""
    functions = []
    for name, arguments in (("Get", 0), ("ThreadHead", 1)):
        functions.append(getattr(ctypes.pythonapi, f"PyInterpreterState_{name}"))
        functions[-1].argtypes, functions[-1].restype = [ctypes.c_void_p] * arguments, ctypes.c_void_p
    following = ctypes.pythonapi.PyThreadState_Next
    following.argtypes, following.restype = [ctypes.c_void_p], ctypes.c_void_p
    state, count = functions[1](functions[0]()), 0
    while state:
        state, count = following(state), count + 1
    return count


@torch.no_grad()
def count_beside_collectives(rank: int) -> list[int]:
    """Body of one process."""
    if sys.version_info >= (3, 12):  # where it is not needed
        comm._keep_states_of_gloo()
    counts = [known_threads()]
    model = fully_shard(nn.Linear(4, 4), mesh=init_device_mesh("cpu", (2,)))
    for number in range(10):
        model(torch.ones(2, 4))
        comm.all_gather("x" * number)
        comm.reduce_sum(torch.ones(3))
        counts.append(known_threads())
    return counts


def test_threads_of_gloo_stay_known(tmp_path):
    """Python makes no new states for them, whose lock a worker that is forked at that moment would wait for."""
    main_and_gloo = 1 + 2
    assert run_two(count_beside_collectives, tmp_path) == [[main_and_gloo] * 11] * 2
