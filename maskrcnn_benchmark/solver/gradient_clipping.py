"""Limits on gradients, applied right before an optimizer's step, to what they are without the scale of the loss."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


class Gradients(NamedTuple):
    """The gradients of an optimizer's next step, in the order of its groups.

    Attributes:
        tensors: one for each parameter that has one.
        are_alike: whether all are plain dense tensors, not sharded, of one type on one device; False for none.
        norm: the L2 norm of all together, None where it was not asked for.
    """

    tensors: list[Tensor]
    are_alike: bool
    norm: Tensor | None = None

    @classmethod
    def of(cls, optimizer: Optimizer) -> "Gradients":
        """The gradients without their norm."""
        groups = optimizer.param_groups
        tensors = [grad for group in groups for one in group["params"] if (grad := one.grad) is not None]
        kinds = {(type(tensor), tensor.device, tensor.dtype, tensor.layout) for tensor in tensors}
        are_alike = len(kinds) == 1 and type(tensors[0]) is Tensor and tensors[0].layout is torch.strided
        return cls(tensors, are_alike)

    def measured(self) -> "Gradients":
        """With the norm of torch.nn.utils.get_total_norm, to the bit, in fewer steps where all are alike."""
        if not self.are_alike:
            return self._replace(norm=torch.nn.utils.get_total_norm(self.tensors))
        return self._replace(norm=torch.linalg.vector_norm(torch.stack(torch._foreach_norm(self.tensors))))


@contextmanager
def known_gradients(optimizer: Optimizer, gradients: Gradients) -> Iterator[None]:
    """Within it, clipping of the full model takes these measured gradients for the optimizer's."""
    optimizer.known_gradients = gradients  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del optimizer.known_gradients  # type: ignore[attr-defined]


def clip_full_model(optimizer: Optimizer, limit: float) -> Tensor:
    """Scales all gradients together so that their L2 norm is at most `limit`; returns the norm they had."""
    gradients: Gradients = getattr(optimizer, "known_gradients", None) or Gradients.of(optimizer).measured()
    assert gradients.norm is not None
    if gradients.are_alike:
        torch._foreach_mul_(gradients.tensors, _factor(limit, gradients.norm))
    else:
        torch.nn.utils.clip_grads_with_norm_(list(_with_gradient(optimizer)), limit, gradients.norm)
    return gradients.norm


def clip_each_norm(optimizer: Optimizer, limit: float) -> None:
    """Scales the gradient of each parameter so that its L2 norm is at most `limit`."""
    gradients = Gradients.of(optimizer)
    if gradients.are_alike:
        norms = torch.stack(torch._foreach_norm(gradients.tensors))
        torch._foreach_mul_(gradients.tensors, _factor(limit, norms).unbind())
        return
    for parameter in _with_gradient(optimizer):
        torch.nn.utils.clip_grad_norm_(parameter, limit)


def _factor(limit: float, norm: Tensor) -> Tensor:
    """The factor of torch.nn.utils.clip_grad_norm_, also for several norms."""
    return (limit / (norm + 1e-6)).clamp(max=1.0)


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
    if scale is None or not (gradients := Gradients.of(optimizer).tensors):
        return
    torch._foreach_mul_(gradients, scale.double().reciprocal().float())  # rounded as the scaler rounds it
    optimizer.grad_scale = None  # type: ignore[attr-defined]


def _with_gradient(optimizer: Optimizer) -> Iterator[torch.nn.Parameter]:
    for group in optimizer.param_groups:
        yield from (parameter for parameter in group["params"] if parameter.grad is not None)
