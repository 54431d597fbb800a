"""Fine-tuning on somebody's own data from the first look to the page with the results."""

import csv
import logging
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import torch

from maskrcnn_benchmark.engine.testing.evaluation_run import EvaluationOptions, Task, evaluate_tasks, weight_state
from maskrcnn_benchmark.engine.testing.prediction_store import fingerprint
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
from maskrcnn_benchmark.engine.tuning.tuning_modes import tuning_highlevel_override
from maskrcnn_benchmark.evaluation.report import PAGE, PER_CLASS, PICTURE, STYLE
from maskrcnn_benchmark.text.queries import prompts_from_dataset
from maskrcnn_benchmark.utils.complete_files import atomic_path
from maskrcnn_benchmark.utils.precision_names import DEFAULT_PRECISION
from maskrcnn_benchmark.visualization.charts import line_chart

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
    options = EvaluationOptions(resume=_is_begun(own, plan), weight=plan.cfg.MODEL.WEIGHT)
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
    page = write_page(own, plan, result, before, command)
    return Tuned(before, after, weights, page, command)


def _is_begun(own: OwnData, plan: Plan) -> bool:
    """Whether the folder of the model as it is has a part of this very evaluation; another one is removed."""
    folder = own.output / ZERO_SHOT
    note, data = folder / "evaluation_of", Path(plan.cfg.DATASETS.REGISTER[VALIDATION_SET].ann_file)
    text = fingerprint([weight_state(plan.cfg.MODEL.WEIGHT), plan.cfg.dump(), data.read_text(encoding="utf-8")])
    if note.is_file() and note.read_text(encoding="utf-8") == text:
        return True
    if folder.is_dir():
        shutil.rmtree(folder)
    with atomic_path(note) as part:
        part.write_text(text, encoding="utf-8")
    return False


def _write_adapter(own: OwnData, plan: Plan, result: TuningResult, device: torch.device) -> Path:
    cfg = tuning_highlevel_override(plan.cfg.clone())
    model = TaskModel(cfg, result.checkpoint, device, None).model
    prompts = prompts_from_dataset(_Vocabulary(plan.classes), cfg, model.tokenizer)
    return make_adapter(model, cfg, plan.model, plan.classes, prompts).save(own.output / ADAPTER)


def predict_command(own: OwnData, plan: Plan, weights: Path) -> str:
    """The command line that finds things on a picture with the result."""
    words = ["glip", "predict", "--model", own.model, "--adapter", str(weights)]
    if own.mode == NEEDS_ALL_WEIGHTS:
        config = str(own.output / CONFIG)
        words = [
            "glip",
            "predict",
            "--config-file",
            config,
            "--weights",
            str(weights),
            "--text",
            ". ".join(plan.classes),
        ]
    return shlex.join([*words, "--image", "PICTURE"])


def per_class(folder: Path) -> dict[str, float]:
    """AP by class of an evaluation, as its folder has it; none where there is nothing to measure."""
    path = folder / PER_CLASS
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    values = {row[0]: float(row[1]) for row in rows[1:]}
    return {name: value for name, value in values.items() if value >= 0}


def write_page(own: OwnData, plan: Plan, result: TuningResult, before: Mapping[str, float], command: str) -> Path:
    """OUTPUT/report.html: what was chosen, AP over iterations, classes before and after, and the worst pictures."""
    folder = Path(result.test_folder, VALIDATION_SET)
    zero_shot = own.output / ZERO_SHOT / "inference" / VALIDATION_SET
    points = [(0, score_of(before)), *((int(step), score_of(figures)) for step, figures in result.history)]
    last = max(step for step, _ in points) or 1
    curve = {f"AP, up to iteration {last}": ([step / last for step, _ in points], [max(ap, 0.0) for _, ap in points])}
    was, became = per_class(zero_shot), per_class(folder)
    sections = {
        "What was chosen": _table(["", ""], [[name, text] for name, text in plan.choices.items()]),
        "Figures": _table(
            ["", "before", "after"],
            [[name, _number(before.get(name)), _number(value)] for name, value in result.test[VALIDATION_SET].items()],
        ),
        "AP over training": line_chart(curve, "part of training", "AP"),
        "AP by class": _table(
            ["class", "before", "after", "change"],
            [
                [name, _number(was.get(name)), _number(value), f"{value - was.get(name, 0.0):+.4f}"]
                for name, value in sorted(became.items(), key=lambda item: item[1] - was.get(item[0], 0.0))
            ],
        ),
    }
    if (folder / PICTURE).is_file():
        files = (folder / PICTURE, folder / PAGE, zero_shot / PAGE)
        worst, detail, old = (escape(os.path.relpath(path, own.output)) for path in files)
        sections["The worst pictures"] = (
            f'<p class="note">More: <a href="{detail}">after training</a>, <a href="{old}">before training</a>.</p>'
            f'<img src="{worst}" style="max-width: 100%" alt="">'
        )
    sections["Use it"] = f"<pre>{escape(command)}</pre>"
    title = f"{plan.model}, {own.mode} tuning on {own.annotations.name}"
    body = "".join(f"<h2>{escape(name)}</h2>\n{content}\n" for name, content in sections.items())
    page = own.output / PAGE
    with atomic_path(page) as part:
        part.write_text(
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
            f"<style>{STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n{body}</body></html>\n",
            encoding="utf-8",
        )
    return page


def _number(value: float | None) -> str:
    return "-" if value is None or value < 0 else f"{value:.4f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
