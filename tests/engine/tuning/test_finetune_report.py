"""The table of a fine-tuning command: mean and spread over seeds and tasks, in files too."""

import csv
import json

import pytest

from maskrcnn_benchmark.config import default_config
from maskrcnn_benchmark.engine.tuning.finetune import TuningResult
from maskrcnn_benchmark.engine.tuning.finetune_arguments import Shots
from maskrcnn_benchmark.engine.tuning.finetune_plan import PlannedTuning
from maskrcnn_benchmark.engine.tuning.finetune_report import Outcome, report_tunings, summarize, summary_table

SCORES = {("a", 3): 0.2, ("a", 30): 0.4, ("b", 3): 0.6, ("b", 30): 0.6}


def outcome(tmp_path, task: str, seed: int | None, score: float, shots: int = 3, start=None) -> Outcome:
    cfg = default_config()
    cfg.DATASETS.SHUFFLE_SEED, cfg.DATASETS.TEST = seed or 0, ("val",)
    folder = tmp_path / f"shots_{shots}" / f"{task}_{seed}"
    cfg.OUTPUT_DIR = str(folder)
    for name in ("val", "test"):
        (folder / "inference" / name).mkdir(parents=True)
        detection = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": score, "more": 1}
        (folder / "inference" / name / "bbox.json").write_text(json.dumps([detection] if name == "test" else []))
    test = {"val": {"AP": score / 2}, "test": {"AP": score, "AP50": 1.0}}
    result = TuningResult(True, "model_final.pth", start, [], {"AP": 0.1}, score / 2, test, str(folder / "inference"))
    return Outcome(PlannedTuning("ab".index(task) + 1, task, Shots(shots, 200, 4), seed, cfg), result)


@pytest.fixture
def outcomes(tmp_path):
    return [
        outcome(tmp_path, task, seed, score, start={"AP": 0.05 * seed}) for (task, seed), score in SCORES.items()
    ] + [outcome(tmp_path, "a", 3, 0.5, shots=1)]


def test_mean_and_spread(outcomes):
    rows = {(row.shots, row.measured_on, row.task): row for row in summarize(outcomes)}
    one = rows[3, "test", "a"]
    assert (one.score, one.std, one.seeds) == pytest.approx((0.3, 0.1, 2))
    mean = rows[3, "test", "mean of 2 tasks"]
    assert (mean.score, mean.std, mean.seeds) == pytest.approx((0.45, 0.05, 2)), "the seeds' means are 0.4 and 0.5"
    assert rows[3, "validation (best)", "a"].score == rows[3, "val", "a"].score == pytest.approx(0.15)
    assert rows[1, "val", "a"].before is None and (1, "test", "mean of 2 tasks") not in rows
    assert rows[3, "validation (best)", "a"].before == rows[3, "val", "a"].before == pytest.approx(0.825)
    assert one.before is mean.before is None, "other data than those that were measured before training"
    lines = str(summary_table(rows.values())).splitlines()
    assert any("0.1500" in line and "0.0500" in line and "0.8250" in line for line in lines)


def test_files(outcomes, tmp_path, caplog):
    caplog.set_level("INFO", "maskrcnn_benchmark.finetune")
    report_tunings(tmp_path, outcomes)
    content = json.loads((tmp_path / "results.json").read_text())
    assert len(content["runs"]) == 5 and content["runs"][1]["seed"] == 30 and content["runs"][1]["task"] == "a"
    assert content["runs"][0]["test"]["test"] == {"AP": 0.2, "AP50": 1.0}
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["score"]) for row in rows] == [row["score"] for row in content["summary"]]
    assert "Results of 5 trainings" in caplog.text and "mean of 2 tasks" in caplog.text
    leaderboard = json.loads((tmp_path / "shots_3/leaderboard.json").read_text())
    assert {task: sorted(seeds) for task, seeds in leaderboard.items()} == {"a": ["3", "30"], "b": ["3", "30"]}
    assert leaderboard["a"]["30"] == [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.4}]
    assert (tmp_path / "shots_1/leaderboard.json").exists()


def test_full_data_have_no_seed_on_the_leaderboard(tmp_path):
    report_tunings(tmp_path, [outcome(tmp_path, "a", None, 0.5, shots=0)])
    leaderboard = json.loads((tmp_path / "shots_0/leaderboard.json").read_text())
    assert [detection["score"] for detection in leaderboard["a"]] == [0.5]


def test_trainings_without_a_test_have_no_leaderboard(tmp_path):
    plan, _ = outcome(tmp_path, "a", 3, 0.5)
    report_tunings(tmp_path, [Outcome(plan, TuningResult(True, "model_final.pth"))])
    assert json.loads((tmp_path / "results.json").read_text())["summary"] == []
    assert not list(tmp_path.rglob("leaderboard.json"))
