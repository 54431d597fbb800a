"""Runs a function in two processes that talk through gloo."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as multiprocessing

from maskrcnn_benchmark.utils import comm


def run_two(function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What `function(rank, *arguments)`, a function of a module, returns in each of the two processes."""
    store = folder / f"store{len(list(folder.iterdir()))}"
    multiprocessing.spawn(_process, (str(store), str(folder), function, arguments), nprocs=2)
    return [torch.load(folder / f"returned{rank}.pth", weights_only=False) for rank in (0, 1)]


def _process(rank: int, store: str, folder: str, function: Callable[..., Any], arguments: tuple) -> None:
    torch.set_num_threads(1)
    comm.init_distributed(f"file://{store}", rank=rank, world_size=2)
    try:
        torch.save(function(rank, *arguments), Path(folder, f"returned{rank}.pth"))
    finally:
        comm.destroy_distributed()
