"""Limits on gradients, applied right before an optimizer's step, to what they are without the scale of the loss."""

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

    Gradients that a gradient scaler has left to the optimizer to unscale, as it does with fused ones, are unscaled
    before, so that the limit means the same with every optimizer.

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
        _take_off_loss_scale(stepping)
        clip(stepping, limit)

    return optimizer.register_step_pre_hook(clip_gradients)


def _take_off_loss_scale(optimizer: Optimizer) -> None:
    """Unscales the gradients if the step would do that itself, and tells the step that it is done.

    torch.amp.GradScaler sets `grad_scale` on an optimizer whose kernels divide by it, unless `unscale_` was called.
    """
    scale: Tensor | None = getattr(optimizer, "grad_scale", None)
    gradients = [parameter.grad for parameter in _with_gradient(optimizer)]
    if scale is None or not gradients:
        return
    torch._foreach_mul_(gradients, scale.double().reciprocal().float())  # rounded as the scaler rounds it
    optimizer.grad_scale = None  # type: ignore[attr-defined]


def _with_gradient(optimizer: Optimizer) -> Iterator[torch.nn.Parameter]:
    for group in optimizer.param_groups:
        yield from (parameter for parameter in group["params"] if parameter.grad is not None)
