"""Limits on gradients, applied right before an optimizer's step, when a gradient scaler has already unscaled them."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


def clip_full_model(optimizer: Optimizer, limit: float) -> Tensor:
    """Scales all gradients together so that their L2 norm is at most `limit`; returns the norm they had."""
    return torch.nn.utils.clip_grad_norm_(list(_with_gradient(optimizer)), limit)


def clip_each_norm(optimizer: Optimizer, limit: float) -> None:
    """Scales the gradient of each parameter so that its L2 norm is at most `limit`."""
    for parameter in _with_gradient(optimizer):
        torch.nn.utils.clip_grad_norm_(parameter, limit)


def clip_each_value(optimizer: Optimizer, limit: float) -> None:
    """Clamps every element of every gradient to [-limit, limit]."""
    torch.nn.utils.clip_grad_value_(list(_with_gradient(optimizer)), limit)


CLIPPING: dict[str, Callable[[Optimizer, float], object]] = {
    "full_model": clip_full_model,
    "norm": clip_each_norm,
    "value": clip_each_value,
}


def clip_before_step(optimizer: Optimizer, clip_type: str, limit: float) -> RemovableHandle:
    """Makes every `optimizer.step()` clip first.

    Args:
        clip_type: "full_model" (one norm over all parameters), "norm" or "value" (each parameter by itself).
        limit: greater than 0.

    Raises: ValueError for another type or limit.
    """
    if clip_type not in CLIPPING:
        raise ValueError(f"unknown gradient clipping {clip_type!r}; known: {', '.join(CLIPPING)}")
    if limit <= 0:
        raise ValueError(f"gradients cannot be clipped to {limit}; the limit must be greater than 0")
    clip = CLIPPING[clip_type]

    def clip_gradients(stepping: Optimizer, args: tuple, kwargs: dict) -> None:
        clip(stepping, limit)

    return optimizer.register_step_pre_hook(clip_gradients)


def _with_gradient(optimizer: Optimizer) -> Iterator[torch.nn.Parameter]:
    for group in optimizer.param_groups:
        yield from (parameter for parameter in group["params"] if parameter.grad is not None)
