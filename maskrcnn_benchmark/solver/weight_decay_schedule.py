"""Weight decay over time: it drops before the learning rate does."""

import logging
from bisect import bisect_right
from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.solver.lr_scheduler import WarmupMultiStepLR

logger = logging.getLogger(__name__)


class WeightDecaySchedule:
    """Multiplies every group's weight decay by `gamma` when `ratio` times each milestone is reached.

    Args:
        optimizer: whose groups change. Their current decay counts as right for `iteration`, as after resuming.
        milestones: iterations at which the learning rate drops, ascending.
        ratio: fraction of a milestone at which the decay drops.
        gamma: factor per drop.
        steps: that the learning rate's schedule has done where training starts.
    """

    def __init__(self, optimizer: Optimizer, milestones: Sequence[float], ratio: float, gamma: float, steps: int = 0):
        self.optimizer, self.gamma = optimizer, gamma
        self.drops = [milestone * ratio for milestone in milestones]
        self.next_drop = bisect_right(self.drops, steps)

    def step(self, steps: int) -> None:
        """Call after every step of the learning rate's schedule with the number of them; batches left out have none."""
        while self.next_drop < len(self.drops) and steps >= self.drops[self.next_drop]:
            for group in self.optimizer.param_groups:
                group["weight_decay"] *= self.gamma
            self.next_drop += 1
            logger.info("Step %d: weight decay multiplied by %g", steps, self.gamma)


def make_weight_decay_schedule(
    cfg: CfgNode, optimizer: Optimizer, scheduler: LRScheduler
) -> WeightDecaySchedule | None:
    """The schedule of `cfg.SOLVER`, at the step of `scheduler`; None if it is off or the rate has no milestones."""
    if not cfg.SOLVER.WEIGHT_DECAY_SCHEDULE or not isinstance(scheduler, WarmupMultiStepLR):
        return None
    return WeightDecaySchedule(
        optimizer, scheduler.milestones, cfg.SOLVER.WEIGHT_DECAY_SCHEDULE_RATIO, cfg.SOLVER.GAMMA, scheduler.last_epoch
    )
