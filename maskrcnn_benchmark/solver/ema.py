"""A copy of the model whose weights are a moving average of the training model's."""

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn


class ModelEma:
    """Keeps `ema = decay * ema + (1 - decay) * model` for every real-valued parameter and buffer.

    Other buffers, such as Swin's index tables, are copied, since averaging rounds them down.

    Args:
        model: the training model, with its weights loaded. A wrapper for several processes is looked through.
        decay: 0 follows the model, towards 1 remembers longer.
        device: where the copy lives; None for the model's own.

    Attributes: ema, the copy, frozen and in evaluation mode.
    Raises: ValueError if the decay is not in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999, device: torch.device | str | None = None):
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of a moving average lies in [0, 1), got {decay}")
        self.decay = decay
        self.ema = deepcopy(_unwrap(model))
        self.ema.eval()
        self.ema.requires_grad_(False)
        if device is not None:
            self.ema.to(device)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards `model`; call it after every step of the optimizer."""
        current = _unwrap(model).state_dict()
        averages: list[Tensor] = []
        targets: list[Tensor] = []
        for name, average in self.ema.state_dict().items():
            target = current[name].detach().to(average.device)
            if average.is_floating_point():
                averages.append(average)
                targets.append(target.to(average.dtype))
            else:
                average.copy_(target)
        torch._foreach_mul_(averages, self.decay)
        torch._foreach_add_(averages, targets, alpha=1 - self.decay)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights, under the model's own names; checkpoints keep them under the key "model_ema"."""
        return self.ema.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores averaged weights when training resumes; names may have the prefix "module."."""
        self.ema.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})


def _unwrap(model: nn.Module) -> nn.Module:
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return model.module if isinstance(model, wrappers) else model
