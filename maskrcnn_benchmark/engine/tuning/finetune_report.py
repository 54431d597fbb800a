"""What a fine-tuning command says at its end: scores over tasks, shots and seeds, and the leaderboard's file."""

import csv
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from prettytable import PrettyTable

from maskrcnn_benchmark.data.build import dataset_names
from maskrcnn_benchmark.engine.training.validation import score_of
from maskrcnn_benchmark.engine.tuning.finetune import TuningResult, write_json
from maskrcnn_benchmark.engine.tuning.finetune_plan import TEST_SET, PlannedTuning
from maskrcnn_benchmark.evaluation.odinw import DETECTIONS, Run, summarize_tasks, write_leaderboard
from maskrcnn_benchmark.utils.complete_files import atomic_path

SUMMARY, LEADERBOARD = "results", "leaderboard.json"
VALIDATION = "validation (best)"

logger = logging.getLogger("maskrcnn_benchmark.finetune")


class Outcome(NamedTuple):
    """A training and what came of it."""

    plan: PlannedTuning
    result: TuningResult


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        shots: pictures per category, 0 for all. measured_on: a test set, or the best in validation.
        task: or the mean over all tasks. score: mean over the seeds. std: over the seeds. seeds: their number.
        before: mean score before training, where it was measured on the same data, those of validation.
    """

    shots: int
    measured_on: str
    task: str
    score: float
    std: float | None
    seeds: int
    before: float | None


def summarize(outcomes: Sequence[Outcome]) -> list[Row]:
    """For every number of shots and every set a row per task, and with several tasks one for their mean."""
    rows: list[Row] = []
    for (shots, measured_on), scores in _scores(outcomes).items():
        summary = summarize_tasks(scores)
        before = {task: _before(outcomes, shots, task, measured_on) for task in scores}
        for task, entry in summary["tasks"].items():
            rows.append(Row(shots, measured_on, task, entry["AP"], entry["std"], entry["seeds"], before[task]))
        if len(scores) > 1:
            known = [value for value in before.values() if value is not None]
            mean_before = fmean(known) if len(known) == len(before) else None
            seeds = max(map(len, scores.values()))
            title = f"mean of {len(scores)} tasks"
            rows.append(Row(shots, measured_on, title, summary["mean"], summary["std"], seeds, mean_before))
    return rows


def summary_table(rows: Iterable[Row]) -> PrettyTable:
    """The rows for reading."""
    table = PrettyTable(["shots", "measured on", "task", "score", "std", "seeds", "before"], align="r")
    table.align["measured on"] = table.align["task"] = "l"
    for row in rows:
        table.add_row(
            [row.shots or "all", row.measured_on, row.task, _text(row.score), _text(row.std), row.seeds,
             _text(row.before)]
        )  # fmt: skip
    return table


def report_tunings(folder: str | Path, outcomes: Sequence[Outcome]) -> None:
    """Logs the table, writes it with the single results to results.json and results.csv, and leaderboard.json files."""
    rows = summarize(outcomes)
    if rows:
        logger.info("Results of %d trainings:\n%s", len(outcomes), summary_table(rows))
    else:
        logger.info("%d trainings, nothing measured (TEST.DURING_TRAINING False, --skip-test)", len(outcomes))
    runs = [
        {
            "task": plan.task,
            "number": plan.number,
            "shots": _shots(plan),
            "seed": plan.cfg.DATASETS.SHUFFLE_SEED,
            "folder": str(plan.folder),
            **asdict(result),
        }
        for plan, result in outcomes
    ]
    write_json(Path(folder, f"{SUMMARY}.json"), {"summary": [row._asdict() for row in rows], "runs": runs})
    with atomic_path(Path(folder, f"{SUMMARY}.csv")) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows(rows)
    for place, found in _leaderboard_runs(outcomes):
        write_leaderboard(place / LEADERBOARD, found)


def _scores(outcomes: Iterable[Outcome]) -> dict[tuple[int, str], dict[str, list[float]]]:
    """(shots, what was measured on) -> task -> score of every seed."""
    scores: dict[tuple[int, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for plan, result in outcomes:
        if result.best is not None:
            scores[_shots(plan), VALIDATION][plan.task].append(result.best)
        for name, figures in result.test.items():
            scores[_shots(plan), name][plan.task].append(score_of(figures))
    return scores


def _before(outcomes: Iterable[Outcome], shots: int, task: str, measured_on: str) -> float | None:
    starts = [
        score_of(result.start)
        for plan, result in outcomes
        if result.start is not None
        and plan.task == task
        and _shots(plan) == shots
        and measured_on in (VALIDATION, *dataset_names(plan.cfg, is_train=False)[:1])
    ]
    return fmean(starts) if starts else None


def _leaderboard_runs(outcomes: Iterable[Outcome]) -> Iterator[tuple[Path, list[Run]]]:
    """Folder of the trainings with one number of shots, and their detections."""
    found: dict[Path, list[Run]] = defaultdict(list)
    for plan, result in outcomes:
        if not result.test:
            continue
        measured_on = TEST_SET if TEST_SET in result.test else next(iter(result.test))
        folder = Path(result.test_folder, measured_on)
        if (folder / DETECTIONS).is_file():
            has_seed = plan.seed is not None or _shots(plan) > 0
            seed = str(plan.cfg.DATASETS.SHUFFLE_SEED) if has_seed else ""
            found[plan.folder.parent].append(Run(plan.task, seed, folder))
    yield from found.items()


def _shots(plan: PlannedTuning) -> int:
    return plan.shots.shots if plan.shots is not None else plan.cfg.DATASETS.FEW_SHOT


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4f}"
