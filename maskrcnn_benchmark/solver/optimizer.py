"""SGD and AdamW with one group per parameter, executed in a few large ones."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from maskrcnn_benchmark.solver.gradient_clipping import clip_before_step
from maskrcnn_benchmark.solver.param_groups import GroupRules, parameter_groups

_PER_PARAMETER = ("params", "name", "initial_lr")  # what groups with equal settings may differ in
_EXECUTION = ("foreach", "fused", "capturable", "differentiable")  # settings that say how to compute, not what


def merge_groups(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Joins groups whose settings are equal, in order of first appearance. The parameters' order is kept in each."""
    merged: dict[tuple, dict[str, Any]] = {}
    for group in groups:
        # A learning rate may be a tensor: compared by identity, as it is shared only on purpose.
        settings = tuple(
            (key, id(value) if isinstance(value, torch.Tensor) else value)
            for key, value in sorted(group.items())
            if key not in _PER_PARAMETER
        )
        if settings in merged:
            merged[settings]["params"] += group["params"]
        else:
            merged[settings] = {**group, "params": list(group["params"])}
    return list(merged.values())


class _MergedStep(Optimizer):
    """Steps over merged groups, so that torch updates hundreds of parameters in one call.

    Groups, their order and the state dict stay one per parameter, as checkpoints have them.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with self._merged_groups():
            super().step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over states and settings, but not how steps are executed: the run that saved them may have had another
        device, and a step that is not fused fails where this optimizer has announced a fused one.
        """
        groups = state_dict["param_groups"]
        if len(groups) == len(self.param_groups):  # torch refuses other numbers
            groups = [
                {**loaded, **{key: own[key] for key in _EXECUTION if key in own}}
                for loaded, own in zip(groups, self.param_groups, strict=True)
            ]
        super().load_state_dict({**state_dict, "param_groups": groups})

    @contextmanager
    def _merged_groups(self) -> Iterator[None]:
        groups, hooks = self.param_groups, (self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks)
        self.param_groups = merge_groups(groups)
        # The outer step runs the hooks; the inner one would, too, once the plain class has been used.
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = OrderedDict(), OrderedDict()
        try:
            yield
        finally:
            self.param_groups = groups
            self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = hooks


class MergedSGD(_MergedStep, SGD):
    """SGD that executes groups of equal settings together."""


class MergedAdamW(_MergedStep, AdamW):
    """AdamW that executes groups of equal settings together."""


def make_optimizer(cfg, model: nn.Module) -> Optimizer:
    """The optimizer of `cfg.SOLVER` for the trainable parameters of a model, clipping gradients if the config says so.

    Call it after freezing, and before the model is wrapped for several processes: names decide rates.

    Raises: ValueError for an unknown optimizer or clipping, or if nothing is trainable.
    """
    groups = parameter_groups(model.named_parameters(), GroupRules.from_config(cfg))
    builders: dict[str, Callable[[], Optimizer]] = {
        "SGD": lambda: MergedSGD(groups, lr=cfg.SOLVER.BASE_LR, momentum=cfg.SOLVER.MOMENTUM),
        "ADAMW": lambda: MergedAdamW(groups, lr=cfg.SOLVER.BASE_LR, fused=_all_on_cuda(groups) or None),
    }
    if cfg.SOLVER.OPTIMIZER not in builders:
        raise ValueError(f"unknown SOLVER.OPTIMIZER {cfg.SOLVER.OPTIMIZER!r}; known: {', '.join(builders)}")
    optimizer = builders[cfg.SOLVER.OPTIMIZER]()
    clipping = cfg.SOLVER.CLIP_GRADIENTS
    if clipping.ENABLED and clipping.CLIP_VALUE > 0:
        clip_before_step(optimizer, clipping.CLIP_TYPE, clipping.CLIP_VALUE)
    return optimizer


def _all_on_cuda(groups: list[dict[str, Any]]) -> bool:
    """Whether torch's fused kernels, which also skip a bad step without asking the host, can be used."""
    return all(parameter.is_cuda for group in groups for parameter in group["params"])
