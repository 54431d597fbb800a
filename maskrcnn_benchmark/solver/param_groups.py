"""Learning rate and weight decay of every parameter, by its name."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from maskrcnn_benchmark.config import CfgNode


@dataclass(frozen=True)
class GroupRules:
    """Settings from which a parameter's learning rate and weight decay follow.

    Attributes:
        base_lr, weight_decay: for parameters that no other rule touches.
        lang_lr: learning rate of the language backbone.
        backbone_body_lr_factor: multiplies the rate of the visual backbone's body.
        bias_lr_factor, weight_decay_bias: for names with "bias"; the factor multiplies, the decay replaces.
        weight_decay_norm_factor: multiplies the decay of names with "norm".
    """

    base_lr: float
    weight_decay: float = 0.0
    lang_lr: float = 1e-5
    backbone_body_lr_factor: float = 1.0
    bias_lr_factor: float = 2.0
    weight_decay_bias: float = 0.0
    weight_decay_norm_factor: float = 1.0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "GroupRules":
        return cls(
            base_lr=cfg.SOLVER.BASE_LR,
            weight_decay=cfg.SOLVER.WEIGHT_DECAY,
            lang_lr=cfg.SOLVER.LANG_LR,
            backbone_body_lr_factor=cfg.SOLVER.BACKBONE_BODY_LR_FACTOR,
            bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
            weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
            weight_decay_norm_factor=cfg.SOLVER.WEIGHT_DECAY_NORM_FACTOR,
        )

    def rate_and_decay(self, name: str) -> tuple[float, float]:
        """(learning rate, weight decay) of the parameter called `name`.

        The published models were trained with plain substring tests, kept here: "bias" also catches Swin's
        `relative_position_bias_table` and the head's `bias_lang`, while the head's group norms, called `bn`, are no
        "norm".
        """
        rate, decay = self.base_lr, self.weight_decay
        if "language_backbone" in name:
            rate = self.lang_lr
        if "backbone.body" in name and "language_backbone.body" not in name:
            rate = self.base_lr * self.backbone_body_lr_factor
        if "bias" in name:
            rate *= self.bias_lr_factor
            decay = self.weight_decay_bias
        if "norm" in name or "Norm" in name:
            decay *= self.weight_decay_norm_factor
        return rate, decay


def parameter_groups(named_parameters: Iterable[tuple[str, nn.Parameter]], rules: GroupRules) -> list[dict[str, Any]]:
    """One optimizer group per trainable parameter, in order: `{"params", "name", "lr", "weight_decay"}`.

    Raises: ValueError if no parameter is trainable.
    """
    groups = []
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            rate, decay = rules.rate_and_decay(name)
            groups.append({"params": [parameter], "name": name, "lr": rate, "weight_decay": decay})
    if not groups:
        raise ValueError("nothing to train: every parameter of the model is frozen")
    return groups


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """The current rate of each part of the model, {"lr/rpn": ...}, that of its first parameter which is no bias."""
    rates: dict[str, float] = {}
    for group in optimizer.param_groups:
        name = group.get("name", "")
        if name and "bias" not in name:
            rates.setdefault(f"lr/{name.removeprefix('module.').split('.')[0]}", float(group["lr"]))
    return rates
