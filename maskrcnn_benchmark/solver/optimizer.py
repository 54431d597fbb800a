"""SGD and AdamW with one group per parameter, executed in a few large ones."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.solver.gradient_clipping import clip_before_step
from maskrcnn_benchmark.solver.param_groups import GroupRules, parameter_groups

_EXECUTION = ("foreach", "fused", "capturable", "differentiable")  # settings that say how to compute, not what
_OF_ONE_KIND = ("momentum", "betas", "eps")  # settings that one optimizer has and another has not


class GroupMerger:
    """Joins groups whose settings are equal, in order of first appearance. The parameters' order is kept in each.

    Settings are compared anew by every call, as schedules change them between steps; the joined lists of parameters
    are made again only when groups part or meet. A learning rate that is a tensor is compared by identity.

    Args:
        settings: the names of what a step reads in a group. Other entries, such as names, stay with the groups.
    """

    def __init__(self, settings: tuple[str, ...]):
        self.settings = settings
        self._layout: tuple[list[int], list[int], list[int]] | None = None
        self._merged: list[dict[str, Any]] = []

    def __call__(self, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The joined groups, {"params", settings...}; their lists are used again by the next call."""
        numbers: dict[Any, int] = {}
        joined_to = [numbers.setdefault(values, len(numbers)) for values in map(itemgetter(*self.settings), groups)]
        parameters = [group["params"] for group in groups]
        layout = (joined_to, list(map(len, parameters)), [id(one) for members in parameters for one in members])
        if layout != self._layout:
            self._layout, self._merged = layout, [{"params": []} for _ in numbers]
            for number, members in zip(joined_to, parameters, strict=True):
                self._merged[number]["params"] += members
        for merged, values in zip(self._merged, numbers, strict=True):
            merged.update(zip(self.settings, values, strict=True))
        return self._merged


class _MergedStep(Optimizer):
    """Steps over merged groups, so that torch updates hundreds of parameters in one call.

    Groups, their order and the state dict stay one per parameter, as checkpoints have them.
    """

    _merger: GroupMerger | None = None  # made when first needed: copies of an optimizer begin without it

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
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

        Raises: ValueError for the state of other parameters, or of another optimizer.
        """
        groups = state_dict["param_groups"]
        self._check_fit(groups)
        groups = [
            {**loaded, **{key: own[key] for key in _EXECUTION if key in own}}
            for loaded, own in zip(groups, self.param_groups, strict=True)
        ]
        super().load_state_dict({**state_dict, "param_groups": groups})

    def _check_fit(self, groups: list[dict[str, Any]]) -> None:
        """Raises ValueError unless the stored groups are those of this optimizer; old files do not name theirs."""
        stored, own = ([group.get("name") for group in one] for one in (groups, self.param_groups))
        if len(stored) != len(own) or (all(stored) and all(own) and stored != own):
            differing = ", ".join(sorted({name for name in stored if name} ^ {name for name in own if name})[:3])
            raise ValueError(
                f"the optimizer state is of {len(stored)} trained parameters, this run trains {len(own)}; "
                f"{f'they differ in {differing}' if differing else 'their order differs'} (see the FREEZE keys)"
            )
        wanted = {key for key in _OF_ONE_KIND if key in self.defaults}
        if groups and (missing := sorted(wanted - groups[0].keys())):
            raise ValueError(
                f"the optimizer state has no {', '.join(missing)}: it is not of the optimizer of this run, "
                f"{type(self).__name__.removeprefix('Merged')} (SOLVER.OPTIMIZER)"
            )

    @contextmanager
    def _merged_groups(self) -> Iterator[None]:
        groups, hooks = self.param_groups, (self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks)
        self._merger = self._merger or GroupMerger(tuple(self.defaults))
        self.param_groups = self._merger(groups)
        # The outer step runs the hooks; the inner one would, too, once the plain class has been used.
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = OrderedDict(), OrderedDict()
        try:
            yield
        finally:
            self.param_groups = groups
            self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = hooks


class MergedSGD(_MergedStep, SGD):
    """SGD that executes groups of equal settings together."""

    def _init_group(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        momentum_buffer_list: list[Tensor | None],
    ) -> bool:
        """Fills the lists as torch does. Momentum of a fused step begins with zeros, which comes to the same.

        Torch's own fused first step would leave it without values if it is skipped, and cannot take in parameters that
        get their first gradient later than others.
        """
        if group["fused"] and group["momentum"] and not group["dampening"]:
            for parameter in group["params"]:
                if parameter.grad is not None and self.state[parameter].get("momentum_buffer") is None:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return super()._init_group(group, params, grads, momentum_buffer_list)


class MergedAdamW(_MergedStep, AdamW):
    """AdamW that executes groups of equal settings together."""

    def _init_group(
        self,
        group: dict[str, Any],
        params_with_grad: list[Tensor],
        grads: list[Tensor],
        exp_avgs: list[Tensor],
        exp_avg_sqs: list[Tensor],
        max_exp_avg_sqs: list[Tensor],
        state_steps: list[Tensor],
    ) -> bool:
        """Fills the lists as torch does, five times faster once every parameter has a state."""
        lists = (params_with_grad, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, state_steps)
        pairs = [(one, grad) for one in group["params"] if (grad := one.grad) is not None]
        states: list[Any] = [self.state.get(one) for one, _ in pairs]
        is_plain = not (group["amsgrad"] or group["differentiable"] or isinstance(group["lr"], Tensor))
        if not (is_plain and all(states)) or any(grad.is_sparse or grad.is_complex() for _, grad in pairs):
            return super()._init_group(group, *lists)
        params_with_grad += [one for one, _ in pairs]
        grads += [grad for _, grad in pairs]
        for wanted, key in ((exp_avgs, "exp_avg"), (exp_avg_sqs, "exp_avg_sq"), (state_steps, "step")):
            wanted += map(itemgetter(key), states)
        return False


def make_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """The optimizer of `cfg.SOLVER` for the trainable parameters of a model, clipping gradients if the config says so.

    Call it after freezing, and before the model is wrapped for several processes: names decide rates.

    Raises: ValueError for an unknown optimizer or clipping, or if nothing is trainable.
    """
    groups = parameter_groups(model.named_parameters(), GroupRules.from_config(cfg))
    fused = _all_on_cuda(groups) or None
    last_rate = groups[-1]["lr"]  # of parameters that are added later, as in the original
    builders: dict[str, Callable[[], Optimizer]] = {
        "SGD": lambda: MergedSGD(groups, lr=last_rate, momentum=cfg.SOLVER.MOMENTUM, fused=fused),
        "ADAMW": lambda: MergedAdamW(groups, lr=last_rate, fused=fused),
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
