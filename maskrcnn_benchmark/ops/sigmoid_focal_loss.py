"""Sigmoid focal loss (arXiv:1708.02002) with class labels, and with a target per token of a caption."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn_benchmark.ops import library


def sigmoid_focal_loss(logits: Tensor, labels: Tensor, gamma: float, alpha: float) -> Tensor:
    """Focal loss of every class against all others, for labels counted from 1.

    Args:
        logits: (N, C), class c in column c - 1.
        labels: (N,) int64 or int32; 0 is background, larger than C a negative of every class, negative values are
            ignored.
        gamma: exponent that plays down easy examples.
        alpha: weight of the positives, 1 - alpha that of the negatives.

    Returns: (N, C) loss, not reduced; float32 at least.
    Raises: ValueError for shapes that do not fit.
    """
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"need logits (N, C) and labels (N,), got {tuple(logits.shape)} and {tuple(labels.shape)}")
    return _label_loss(logits, labels, gamma, alpha)


def token_sigmoid_focal_loss(
    logits: Tensor, targets: Tensor, text_mask: Tensor | None, alpha: float, gamma: float
) -> Tensor:
    """Focal loss between locations and the tokens of their caption.

    Args:
        logits: (B, N, T).
        targets: (B, N, T) in [0, 1].
        text_mask: (B, T), larger than 0 for tokens that count, or None if all do. The logits of the others may be
            anything; they reach neither the sum nor the gradient.
        alpha: weight of the positives, 1 - alpha that of the negatives; negative for no weight.
        gamma: exponent that plays down easy examples.

    Returns: the sum, a scalar; float32 at least. The same in every run: the order of the additions is fixed.
    Raises: ValueError for shapes that do not fit.
    """
    shape = logits.shape
    if len(shape) != 3 or targets.shape != shape:
        raise ValueError(
            f"logits and targets must share a shape (B, N, T), got {tuple(shape)} and {tuple(targets.shape)}"
        )
    if text_mask is not None and text_mask.shape != (shape[0], shape[2]):
        raise ValueError(
            f"text_mask must have the shape {(shape[0], shape[2])} of the batch and the tokens, "
            f"got {tuple(text_mask.shape)}"
        )
    if logits.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        # The same as below without the way through the dispatcher and back to Python, which takes as long as the
        # kernels. Autocast has nothing to cast: the kernels compute in float32 whatever they read.
        result: Tensor = _TokenLoss.apply(logits, targets, text_mask, alpha, gamma)
        return result
    return _token_loss(logits, targets, text_mask, alpha, gamma)


def _plain_label_loss(logits: Tensor, labels: Tensor, gamma: float, alpha: float) -> Tensor:
    logits = _at_least_float32(logits)
    # F.logsigmoid keeps its precision where the probability rounds to 0 or 1.
    positive = -alpha * (-logits).sigmoid() ** gamma * F.logsigmoid(logits)
    negative = -(1 - alpha) * logits.sigmoid() ** gamma * F.logsigmoid(-logits)
    return _by_label(positive, negative, labels)


def _plain_label_gradient(grad: Tensor, logits: Tensor, labels: Tensor, gamma: float, alpha: float) -> Tensor:
    dtype, logits = logits.dtype, _at_least_float32(logits)
    p, q = logits.sigmoid(), (-logits).sigmoid()
    positive = alpha * q**gamma * (gamma * p * F.logsigmoid(logits) - q)
    negative = (1 - alpha) * p**gamma * (p - gamma * q * F.logsigmoid(-logits))
    return (grad * _by_label(positive, negative, labels)).to(dtype)


def _by_label(positive: Tensor, negative: Tensor, labels: Tensor) -> Tensor:
    """(N, C): `positive` in the column of the label, `negative` elsewhere, 0 in the rows that are ignored."""
    columns = torch.arange(1, positive.shape[1] + 1, device=positive.device)
    labels = labels[:, None]
    return torch.where(labels == columns, positive, negative).masked_fill(labels < 0, 0.0)


def _plain_token_loss(logits: Tensor, targets: Tensor, text_mask: Tensor | None, alpha: float, gamma: float) -> Tensor:
    logits, targets = _counted(logits, targets, text_mask)
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    loss = loss * _miss(logits, targets) ** gamma
    return _weighted(loss, targets, text_mask, alpha).sum()


def _plain_token_loss_with_gradient(
    logits: Tensor, targets: Tensor, text_mask: Tensor | None, alpha: float, gamma: float
) -> tuple[Tensor, Tensor]:
    loss = _plain_token_loss(logits, targets, text_mask, alpha, gamma)
    logits, targets = _counted(logits, targets, text_mask)
    p, miss = logits.sigmoid(), _miss(logits, targets)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    change = p * (-logits).sigmoid() * (1 - 2 * targets)  # of the miss
    relative = torch.where(miss > 0, change / miss, 0.0)
    slope = miss**gamma * (p - targets + gamma * cross_entropy * relative)
    return loss, _weighted(slope, targets, text_mask, alpha)


def _counted(logits: Tensor, targets: Tensor, text_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Logits, 0 where the mask is, and targets, both of the dtype to compute in."""
    logits = _at_least_float32(logits)
    targets = targets.to(logits.dtype)
    return logits if text_mask is None else logits.masked_fill(text_mask[:, None] <= 0, 0.0), targets


def _miss(logits: Tensor, targets: Tensor) -> Tensor:
    """1 minus the probability of the target."""
    return logits.sigmoid() * (1 - targets) + (-logits).sigmoid() * targets


def _weighted(values: Tensor, targets: Tensor, text_mask: Tensor | None, alpha: float) -> Tensor:
    if alpha >= 0:
        values = values * (alpha * targets + (1 - alpha) * (1 - targets))
    return values if text_mask is None else values.masked_fill(text_mask[:, None] <= 0, 0.0)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


_label_loss = library.define(
    "sigmoid_focal_loss(Tensor logits, Tensor labels, float gamma, float alpha) -> Tensor", _plain_label_loss
)
_label_gradient = library.define(
    "_sigmoid_focal_loss_backward(Tensor grad, Tensor logits, Tensor labels, float gamma, float alpha) -> Tensor",
    _plain_label_gradient,
)
_token_loss = library.define(
    "token_sigmoid_focal_loss(Tensor logits, Tensor targets, Tensor? text_mask, float alpha, float gamma) -> Tensor",
    _plain_token_loss,
)
_token_loss_with_gradient = library.define(
    "_token_sigmoid_focal_loss_with_gradient(Tensor logits, Tensor targets, Tensor? text_mask, float alpha, "
    "float gamma) -> (Tensor, Tensor)",
    _plain_token_loss_with_gradient,
)


@library.fake(_label_loss)
def _(logits: Tensor, labels: Tensor, gamma: float, alpha: float) -> Tensor:
    return logits.new_empty(logits.shape, dtype=library.accumulate_dtype(logits.dtype))


@library.fake(_token_loss)
def _(logits: Tensor, targets: Tensor, text_mask: Tensor | None, alpha: float, gamma: float) -> Tensor:
    return logits.new_empty((), dtype=library.accumulate_dtype(logits.dtype))


@library.fake(_token_loss_with_gradient)
def _(logits: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    dtype = library.accumulate_dtype(logits.dtype)
    return logits.new_empty((), dtype=dtype), logits.new_empty(logits.shape, dtype=dtype)


@library.fake(_label_gradient)
def _(grad: Tensor, logits: Tensor, *others: Any) -> Tensor:
    return logits.new_empty(logits.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.exponents = inputs[-2:]
    ctx.save_for_backward(*inputs[:-2])


def _label_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _label_gradient(grad, *ctx.saved_tensors, *ctx.exponents), None, None, None


class _TokenLoss(torch.autograd.Function):
    """Computes the gradient along with the loss and keeps nothing else: what is left to do is a multiplication."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, text_mask: Tensor | None, alpha: float, gamma: float
    ) -> Tensor:
        loss, gradient = _token_loss_with_gradient(logits, targets, text_mask, alpha, gamma)
        ctx.dtype = logits.dtype
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    @library.once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        if gradient.dtype == ctx.dtype:
            return gradient * grad, None, None, None, None
        rounded = torch.empty_like(gradient, dtype=ctx.dtype)
        return torch.mul(gradient, grad, out=rounded), None, None, None, None


library.autograd(_label_loss, _label_backward, _save)
library.differentiate(_token_loss, _TokenLoss)
library.autocast(_label_loss, torch.float32)
library.autocast(_token_loss, torch.float32)
