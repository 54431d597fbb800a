"""Automatic mixed precision under its historical names, for CUDA unless another device type is asked for."""

from functools import partial
from typing import Any

import torch

custom_fwd = partial(torch.amp.custom_fwd, device_type="cuda")
custom_bwd = partial(torch.amp.custom_bwd, device_type="cuda")


class autocast(torch.amp.autocast):
    """``torch.amp.autocast`` whose first argument is ``enabled``; without CUDA it does nothing, and does not warn."""

    def __init__(self, enabled: bool = True, dtype: torch.dtype | None = None, device_type: str = "cuda") -> None:
        usable = device_type != "cuda" or torch.cuda.is_available()
        super().__init__(device_type, dtype=dtype, enabled=enabled and usable)


class GradScaler(torch.amp.GradScaler):
    """``torch.amp.GradScaler`` for CUDA; without CUDA it scales nothing, and does not warn."""

    def __init__(self, init_scale: float = 2.0**16, *, enabled: bool = True, **options: Any) -> None:
        super().__init__("cuda", init_scale=init_scale, enabled=enabled and torch.cuda.is_available(), **options)
