"""Optimizers, learning-rate and weight-decay schedules, and averaged weights."""

from maskrcnn_benchmark.solver.ema import ModelEma
from maskrcnn_benchmark.solver.gradient_clipping import clip_before_step
from maskrcnn_benchmark.solver.lr_scheduler import (
    WarmupCosineAnnealingLR,
    WarmupMultiStepLR,
    WarmupReduceLROnPlateau,
    make_lr_scheduler,
)
from maskrcnn_benchmark.solver.optimizer import make_optimizer
from maskrcnn_benchmark.solver.param_groups import learning_rates
from maskrcnn_benchmark.solver.weight_decay_schedule import WeightDecaySchedule, make_weight_decay_schedule

__all__ = [
    "ModelEma",
    "WarmupCosineAnnealingLR",
    "WarmupMultiStepLR",
    "WarmupReduceLROnPlateau",
    "WeightDecaySchedule",
    "clip_before_step",
    "learning_rates",
    "make_lr_scheduler",
    "make_optimizer",
    "make_weight_decay_schedule",
]
