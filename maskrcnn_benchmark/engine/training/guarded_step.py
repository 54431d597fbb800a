"""One optimizer step that never lets a value that is not finite into the weights, and does not wait for the device."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from maskrcnn_benchmark.solver.gradient_clipping import Gradients, known_gradients
from maskrcnn_benchmark.solver.loss_scale import LossScaler
from maskrcnn_benchmark.utils import comm

FP16_SCALE = 2.0**16


class LossNotFinite(FloatingPointError):
    """Training was given up because losses or gradients were not finite, once or too many times in a row."""


class GuardedStep:
    """Backward pass and optimizer step; the weights stay as they are when the loss or a gradient is not finite.

    A loss that is not finite sends NaN through the whole backward pass. With several processes the gradients are
    averaged, so a bad value on one makes the gradients of all bad, and all skip the same step without further talk.
    Fused optimizers skip on the device; others are asked for one number on the host.

    Args:
        optimizer: clips by itself if it has to; its gradients are true ones, the loss scale is taken off before.
        device: where the losses are.
        use_loss_scale: scale the loss dynamically, for float16.
        averages_gradients: average the gradients of the processes here, at once, for a model that does not do so in
            the backward pass.
    """

    def __init__(
        self, optimizer: Optimizer, device: torch.device, use_loss_scale: bool, *, averages_gradients: bool = False
    ):
        self.optimizer = optimizer
        self.averages_gradients = averages_gradients
        # Schedulers warn of steps in the wrong order unless they saw the optimizer step; a skipped first step is none.
        optimizer._opt_called = True  # type: ignore[attr-defined]
        self.scaler = LossScaler(device.type, init_scale=FP16_SCALE) if use_loss_scale else None

    def __call__(self, loss: Tensor) -> Tensor:
        """Scalar loss -> bool tensor on its device: whether the step was skipped."""
        self.begin()
        self.backward(loss)
        return self.finish()

    def begin(self) -> None:
        """Forgets the gradients of the last step."""
        self.optimizer.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a scalar loss, all NaN if it is not finite; may be called for parts of a batch."""
        seed = torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan).to(loss.dtype)
        (loss if self.scaler is None else self.scaler.scale(loss)).backward(gradient=seed)

    def finish(self) -> Tensor:
        """Moves the weights by the gradients -> bool tensor on their device: whether that was skipped."""
        if self.averages_gradients:
            self._average_gradients()
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        gradients = Gradients.of(self.optimizer).measured()
        assert gradients.norm is not None
        is_bad = ~torch.isfinite(comm.full_tensor(gradients.norm))
        with known_gradients(self.optimizer, gradients):
            if self.scaler is None:
                self._step_unless(is_bad)
            else:
                self.scaler.step(self.optimizer)
                self.scaler.update()
        return is_bad

    def _average_gradients(self) -> None:
        groups = self.optimizer.param_groups
        parameters = [p for group in groups for p in group["params"] if p.grad is not None]
        means = comm.mean_over_processes([p.grad for p in parameters])
        for parameter, mean in zip(parameters, means, strict=True):
            parameter.grad = mean

    def state_dict(self) -> dict:
        """State of the loss scale; empty without one."""
        return {} if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state: Mapping) -> None:
        if self.scaler is not None and state:
            self.scaler.load_state_dict(dict(state))

    def _step_unless(self, is_bad: Tensor) -> None:
        if getattr(self.optimizer, "_step_supports_amp_scaling", False):
            # The protocol by which GradScaler tells a fused optimizer to leave the weights alone.
            self.optimizer.grad_scale, self.optimizer.found_inf = None, is_bad.float()
            try:
                self.optimizer.step()
            finally:
                del self.optimizer.grad_scale, self.optimizer.found_inf
        elif not is_bad.item():
            self.optimizer.step()


class StepMonitor:
    """Counts skipped steps on the device and remembers the losses of the last one, without waiting for it.

    Args:
        max_in_a_row: `check` gives up after that many.
    """

    def __init__(self, max_in_a_row: int):
        self.max_in_a_row = max_in_a_row
        self.skipped = 0
        self._names: tuple[str, ...] = ()
        self._counts: Tensor | None = None  # total, in a row, longest row
        self._last: Tensor | None = None  # iteration, then the losses

    def update(self, iteration: int, losses: Mapping[str, Tensor], is_bad: Tensor) -> None:
        """Takes in the outcome of one iteration; nothing is read from the device."""
        values = torch.stack([loss.detach().float() for loss in losses.values()])
        entry = torch.cat([values.new_full((1,), iteration), values])
        if self._counts is None or self._last is None or self._names != tuple(losses):
            self._names = tuple(losses)
            self._counts = torch.zeros(3, dtype=torch.int64, device=values.device)
            self._last = torch.zeros_like(entry)
        total, row, longest = self._counts.unbind()
        row = (row + 1) * is_bad
        self._counts = torch.stack([total + is_bad, row, torch.maximum(longest, row)])
        self._last = torch.where(is_bad, entry, self._last)

    def check(self) -> str:
        """Reads the counts: a sentence about steps skipped since the last call, "" if there was none.

        Raises: LossNotFinite after too many in a row.
        """
        if self._counts is None or self._last is None:
            return ""
        total, row, longest = (int(count) for count in self._counts.tolist())
        if total == 0:
            return ""
        self.skipped += total
        iteration, *values = self._last.tolist()
        self._counts = torch.stack([self._counts[0] * 0, self._counts[1], self._counts[1]])
        losses = ", ".join(f"{name} {value:.4g}" for name, value in zip(self._names, values, strict=True))
        message = (
            f"loss or gradient not finite, step skipped {total} times, last at iteration {iteration:.0f} ({losses})"
        )
        if longest >= self.max_in_a_row:
            raise LossNotFinite(f"{message}; giving up after {longest} in a row")
        return message
