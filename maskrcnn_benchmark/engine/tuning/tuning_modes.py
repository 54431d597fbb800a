"""GLIP's ways of fine-tuning (SOLVER.TUNING_HIGHLEVEL_OVERRIDE): which parts of the detector are trained."""

import logging
from typing import NamedTuple

from torch import nn

from maskrcnn_benchmark.config import CfgNode

logger = logging.getLogger(__name__)


class TuningMode(NamedTuple):
    """What a mode writes into the configuration; the modules themselves are frozen by `modeling.freezing`.

    Attributes:
        backbone, fpn, head, language: whether the part is frozen.
        linear_probe: of the head, keep the last layers trainable (MODEL.LINEAR_PROB).
        prompt: train a table that is added to the text features (MODEL.DYHEAD.FUSE_CONFIG.ADD_LINEAR_LAYER).
    """

    backbone: bool
    fpn: bool
    head: bool
    linear_probe: bool
    prompt: bool
    language: bool


_T, _F = True, False
TUNING_MODES = {
    "full": TuningMode(_F, _F, _F, _F, _F, _F),
    "linear_prob": TuningMode(_T, _T, _F, _T, _F, _T),
    "language_prompt_v1": TuningMode(_T, _T, _T, _F, _F, _F),
    "language_prompt_v2": TuningMode(_T, _T, _T, _F, _T, _T),
    "language_prompt_v3": TuningMode(_T, _T, _T, _T, _F, _F),
    "language_prompt_v4": TuningMode(_T, _T, _T, _T, _T, _T),
    "language_prompt_v3_fixed": TuningMode(_T, _T, _F, _T, _F, _F),
    "language_prompt_v4_fixed": TuningMode(_T, _T, _F, _T, _T, _T),
}
"""By name. v3 and v4 freeze the head and keep its last layers, and freezing wins: they train what v1 and v2 train.
Their "_fixed" twins train the last layers of the head as well, as was meant: the text encoder with them, and the prompt
with them."""


def tuning_highlevel_override(cfg: CfgNode) -> CfgNode:
    """Writes the parts that SOLVER.TUNING_HIGHLEVEL_OVERRIDE freezes into `cfg`, and returns it; None changes nothing.

    Raises: ValueError for an unknown mode.
    """
    name = cfg.SOLVER.TUNING_HIGHLEVEL_OVERRIDE
    if name is None:
        return cfg
    if name not in TUNING_MODES:
        raise ValueError(f"SOLVER.TUNING_HIGHLEVEL_OVERRIDE={name!r}: known are {', '.join(TUNING_MODES)}")
    mode, model = TUNING_MODES[name], cfg.MODEL
    model.BACKBONE.FREEZE, model.FPN.FREEZE, model.RPN.FREEZE = mode.backbone, mode.fpn, mode.head
    model.LINEAR_PROB, model.DYHEAD.FUSE_CONFIG.ADD_LINEAR_LAYER = mode.linear_probe, mode.prompt
    model.LANGUAGE_BACKBONE.FREEZE = mode.language
    if name == "linear_prob":
        model.DYHEAD.USE_CHECKPOINT = False
    return cfg


def report_freeze_options(cfg: CfgNode) -> None:
    """Logs which parts the configuration freezes."""
    model = cfg.MODEL
    options = {
        "Backbone": model.BACKBONE.FREEZE,
        "FPN": model.FPN.FREEZE,
        "RPN": model.RPN.FREEZE,
        "Linear Probe": model.LINEAR_PROB,
        "Language": model.LANGUAGE_BACKBONE.FREEZE,
        "Linear Layer": model.DYHEAD.FUSE_CONFIG.ADD_LINEAR_LAYER,
        "High Level Override": cfg.SOLVER.TUNING_HIGHLEVEL_OVERRIDE,
    }
    logger.info("Frozen: %s", ", ".join(f"{name} {value}" for name, value in options.items()))


def trainable_names(model: nn.Module) -> list[str]:
    """Names of the parameters that training changes; `model` is in train mode, in which its parts are frozen."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]
