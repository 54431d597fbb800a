"""Fine-tuning on somebody's own data from the first look to the page with the results."""

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from maskrcnn_benchmark.engine.testing.evaluation_run import EvaluationOptions, Task, evaluate_tasks
from maskrcnn_benchmark.engine.testing.task_model import TaskModel
from maskrcnn_benchmark.engine.training.validation import score_of
from maskrcnn_benchmark.engine.tuning.adapter import make_adapter
from maskrcnn_benchmark.engine.tuning.finetune import (
    TuningOptions,
    TuningResult,
    check_same_run,
    checked_loaders,
    fine_tune,
)
from maskrcnn_benchmark.engine.tuning.own_data import VALIDATION_SET, OwnData, Plan, plan_own_data
from maskrcnn_benchmark.engine.tuning.own_report import write_page
from maskrcnn_benchmark.engine.tuning.tuning_modes import tuning_highlevel_override
from maskrcnn_benchmark.text.class_names import split_class_text
from maskrcnn_benchmark.text.queries import prompts_from_dataset
from maskrcnn_benchmark.utils.precision_names import DEFAULT_PRECISION

ADAPTER, ZERO_SHOT, CONFIG = "adapter.safetensors", "zero_shot", "config.yml"
NEEDS_ALL_WEIGHTS = "full"

logger = logging.getLogger("maskrcnn_benchmark.finetune")


class Tuned(NamedTuple):
    """What came of it.

    Attributes:
        before, after: validation figures of the model as it was, and of its best weights.
        weights: the adapter, or the checkpoint where all weights were trained. page: the report.
        predict: the command that finds things with the result.
    """

    before: dict[str, float]
    after: dict[str, float]
    weights: Path
    page: Path
    predict: str


class _Vocabulary:
    """Classes as `prompts_from_dataset` asks for them."""

    def __init__(self, names: Sequence[str]):
        self.names = names

    def categories(self) -> dict[int, str]:
        return dict(enumerate(self.names, start=1))


def tune_on_own_data(own: OwnData, plan: Plan | None = None) -> Tuned | None:
    """Checks the data, measures the model as it is, fine-tunes it and reports; None where it was stopped.

    The same call goes on where an earlier one was stopped.
    Raises: ValueError or OSError that names what cannot be used.
    """
    plan = plan or plan_own_data(own)
    own.output.mkdir(parents=True, exist_ok=True)
    check_same_run(plan.cfg)
    checked_loaders(plan.cfg.clone())
    device = torch.device(own.device)
    model = TaskModel(plan.cfg, plan.cfg.MODEL.WEIGHT, device, DEFAULT_PRECISION)
    options = EvaluationOptions(resume=True, replaces_other=True, weight=plan.cfg.MODEL.WEIGHT)
    before = evaluate_tasks([Task("", plan.cfg)], model, own.output / ZERO_SHOT, options)[""][VALIDATION_SET]
    logger.info("Before training: AP %.4f", score_of(before))
    del model  # before another one is built
    result = fine_tune(plan.cfg, device, TuningOptions(tests_best=True))
    if not result.is_finished:
        return None
    for path in own.output.glob("model_[0-9]*.pth"):  # to go on from; the best and the last stay
        path.unlink()
    after = result.test[VALIDATION_SET]
    if score_of(after) < score_of(before):
        logger.warning(
            "AP fell from %.4f to %.4f: lower the learning rate, or give more pictures",
            score_of(before),
            score_of(after),
        )
    weights = own.output / Path(result.checkpoint).name
    if own.mode != NEEDS_ALL_WEIGHTS:
        weights = _write_adapter(own, plan, result, device)
    command = predict_command(own, plan, weights)
    page = write_page(own, plan, result, before, own.output / ZERO_SHOT, command)
    return Tuned(before, after, weights, page, command)


def _write_adapter(own: OwnData, plan: Plan, result: TuningResult, device: torch.device) -> Path:
    cfg = tuning_highlevel_override(plan.cfg.clone())
    model = TaskModel(cfg, result.checkpoint, device, None).model
    prompts = prompts_from_dataset(_Vocabulary(plan.classes), cfg, model.tokenizer)
    return make_adapter(model, cfg, plan.model, plan.classes, prompts).save(own.output / ADAPTER)


def predict_command(own: OwnData, plan: Plan, weights: Path) -> str:
    """The command line that finds things on a picture with the result."""
    words = ["--model", own.model, "--adapter", str(weights)]
    if own.mode == NEEDS_ALL_WEIGHTS:
        files = ["--config-file", str(own.output / CONFIG), "--weights", str(weights)]
        text = ". ".join(plan.classes)
        is_read_back = split_class_text(text) == plan.classes  # not so for names with a full stop
        option, values = ("--text", [text]) if is_read_back else ("--classes", plan.classes)
        looks_like_option = any(value.startswith("-") for value in values)
        words = [*files, *([f"{option}={value}" for value in values] if looks_like_option else [option, *values])]
    return shlex.join(["glip", "predict", *words, "--image", "PICTURE"])
