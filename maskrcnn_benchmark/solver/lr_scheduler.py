"""Learning rates over time: warm-up, then steps, a cosine, or drops when the validation score stalls.

Every scheduler is stepped once per iteration, after the optimizer.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from maskrcnn_benchmark.config import CfgNode

WARMUP_METHODS = ("linear", "constant")


def warmup_multiplier(iteration: int, method: str, factor: float, length: int) -> float:
    """What multiplies the learning rate at `iteration`: from `factor` (linearly or constantly) to 1 at `length`."""
    if iteration >= length:
        return 1.0
    if method == "constant":
        return factor
    progress = iteration / length
    return factor * (1 - progress) + progress


def _check_warmup_method(method: str) -> None:
    if method not in WARMUP_METHODS:
        raise ValueError(f"unknown warm-up method {method!r}; known: {', '.join(WARMUP_METHODS)}")


class WarmupMultiStepLR(LRScheduler):
    """After warm-up, multiplies the rates by `gamma` at every milestone.

    Args:
        milestones: iterations, ascending.
        gamma: factor per milestone.
        warmup_factor, warmup_iters, warmup_method: see `warmup_multiplier`.

    Raises: ValueError if the milestones are not in order or the method is unknown.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Sequence[float],
        gamma: float = 0.1,
        warmup_factor: float = 1.0 / 3,
        warmup_iters: int = 500,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ):
        if list(milestones) != sorted(milestones):
            raise ValueError(f"milestones must ascend, got {list(milestones)}")
        _check_warmup_method(warmup_method)
        self.milestones, self.gamma = list(milestones), gamma
        self.warmup_factor, self.warmup_iters, self.warmup_method = warmup_factor, warmup_iters, warmup_method
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        warmup = warmup_multiplier(self.last_epoch, self.warmup_method, self.warmup_factor, self.warmup_iters)
        drop = self.gamma ** bisect_right(self.milestones, self.last_epoch)
        return [base * warmup * drop for base in self.base_lrs]


class WarmupCosineAnnealingLR(LRScheduler):
    """After warm-up, follows a cosine from the base rate towards `eta_min`.

    The half wave is `max_iters` long but starts after the warm-up, so that it ends a little above `eta_min`, as the
    original's does.

    Args:
        max_iters: iterations of the whole training.
        gamma: accepted as by the other schedulers, without effect.
        warmup_factor, warmup_iters, warmup_method: see `warmup_multiplier`.
        eta_min: the rate at the end of the half wave, the same for all groups.
        is_exact: shorten the half wave by the warm-up, so that training ends at `eta_min`.

    Raises: ValueError if the method is unknown.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_iters: int,
        gamma: float = 0.1,
        warmup_factor: float = 1.0 / 3,
        warmup_iters: int = 500,
        warmup_method: str = "linear",
        eta_min: float = 0.0,
        last_epoch: int = -1,
        *,
        is_exact: bool = False,
    ):
        _check_warmup_method(warmup_method)
        self.max_iters, self.eta_min, self.is_exact = max_iters, eta_min, is_exact
        self.warmup_factor, self.warmup_iters, self.warmup_method = warmup_factor, warmup_iters, warmup_method
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        if self.last_epoch < self.warmup_iters:
            warmup = warmup_multiplier(self.last_epoch, self.warmup_method, self.warmup_factor, self.warmup_iters)
            return [base * warmup for base in self.base_lrs]
        length = max(self.max_iters - self.warmup_iters, 1) if self.is_exact else self.max_iters
        angle = math.pi * (self.last_epoch - self.warmup_iters) / length
        return [self.eta_min + (base - self.eta_min) * (1 + math.cos(angle)) / 2 for base in self.base_lrs]


class WarmupReduceLROnPlateau(ReduceLROnPlateau):
    """After warm-up, multiplies the rates by `gamma` when the validation score has not risen for `patience` scores.

    `step()` counts an iteration, `step(score)` reports a validation score. A score of exactly 0, a detector that finds
    nothing yet, does not count, and one during warm-up is a step of that. As in the original the first iteration has
    the full rates, since nothing is set before the first step, and the last step of the warm-up sets them again.

    Args:
        gamma: factor per drop.
        patience: number of scores in a row that may fail to exceed the best by 0.01 %.
        eta_min: lowest rate.
        warmup_factor, warmup_iters, warmup_method: see `warmup_multiplier`.

    Raises: ValueError if the method is unknown.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        gamma: float = 0.5,
        patience: int = 5,
        eta_min: float = 0.0,
        warmup_factor: float = 1.0 / 3,
        warmup_iters: int = 500,
        warmup_method: str = "linear",
    ):
        _check_warmup_method(warmup_method)
        self.warmup_factor, self.warmup_iters, self.warmup_method = warmup_factor, warmup_iters, warmup_method
        super().__init__(optimizer, mode="max", factor=gamma, patience=patience, min_lr=eta_min)
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.warmup_steps = 0

    def step(self, metrics: float | None = None) -> None:  # type: ignore[override]
        if self.warmup_steps < self.warmup_iters:
            self._warm_up()
        elif metrics:
            super().step(metrics)

    def _warm_up(self) -> None:
        warmup = warmup_multiplier(self.warmup_steps, self.warmup_method, self.warmup_factor, self.warmup_iters)
        self.warmup_steps += 1
        if self.warmup_steps == self.warmup_iters:
            warmup = 1.0
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * warmup
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


def milestones_in_iterations(steps: Sequence[float], max_iter: int) -> list[float]:
    """Steps below 1 are fractions of the training, rounded to an iteration; others are iterations as they are."""
    return [round(step * max_iter) if step < 1 else step for step in steps]


def make_lr_scheduler(cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
    """The scheduler of `cfg.SOLVER`: cosine, else drops on a plateau, else steps.

    Raises: ValueError for stages (SOLVER.MULTI_MAX_EPOCH), which are not supported.
    """
    solver = cfg.SOLVER
    if solver.MULTI_MAX_EPOCH:
        raise ValueError(
            f"SOLVER.MULTI_MAX_EPOCH {solver.MULTI_MAX_EPOCH} asks for training in stages, which is not supported; "
            "run one training per stage with SOLVER.MAX_EPOCH"
        )
    warmup = {
        "warmup_factor": solver.WARMUP_FACTOR,
        "warmup_iters": solver.WARMUP_ITERS,
        "warmup_method": solver.WARMUP_METHOD,
    }
    if solver.USE_COSINE:
        return WarmupCosineAnnealingLR(
            optimizer, solver.MAX_ITER, eta_min=solver.MIN_LR, is_exact=solver.COSINE_EXACT_END, **warmup
        )
    if solver.USE_AUTOSTEP:
        return WarmupReduceLROnPlateau(
            optimizer, gamma=solver.GAMMA, patience=solver.STEP_PATIENCE, eta_min=solver.MIN_LR, **warmup
        )
    milestones = milestones_in_iterations(solver.STEPS, solver.MAX_ITER)
    return WarmupMultiStepLR(optimizer, milestones, gamma=solver.GAMMA, **warmup)
