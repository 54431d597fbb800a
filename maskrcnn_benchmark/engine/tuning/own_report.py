"""The page about a fine-tuning on somebody's own data: what was chosen, and what came of it."""

import csv
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from maskrcnn_benchmark.engine.training.validation import score_of
from maskrcnn_benchmark.engine.tuning.finetune import TuningResult
from maskrcnn_benchmark.engine.tuning.own_data import VALIDATION_SET, OwnData, Plan
from maskrcnn_benchmark.evaluation.report import PAGE, PER_CLASS, PICTURE, STYLE
from maskrcnn_benchmark.utils.complete_files import write_complete
from maskrcnn_benchmark.visualization.charts import line_chart


def per_class(folder: Path) -> dict[str, float]:
    """AP by class of an evaluation, as its folder has it; none where there is nothing to measure."""
    path = folder / PER_CLASS
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    values = {row[0]: float(row[1]) for row in rows[1:]}
    return {name: value for name, value in values.items() if value >= 0}


def write_page(
    own: OwnData, plan: Plan, result: TuningResult, before: Mapping[str, float], zero_shot: Path, command: str
) -> Path:
    """OUTPUT/report.html: what was chosen, AP over iterations, classes before and after, and the worst pictures.

    Args:
        before, zero_shot: figures of the model as it was, and the folder of that evaluation.
        command: that uses the result.
    """
    folder, zero_shot = Path(result.test_folder, VALIDATION_SET), zero_shot / "inference" / VALIDATION_SET
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
    write_complete(
        page,
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n{body}</body></html>\n",
    )
    return page


def _number(value: float | None) -> str:
    return "-" if value is None or value < 0 else f"{value:.4f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
