"""Collections of tasks: which there are, their mean and median, and the files for the leaderboard."""

import csv
import importlib.util
import json
from pathlib import Path

import pytest

from maskrcnn_benchmark.engine.tuning.finetune_plan import task_files as tuning_files
from maskrcnn_benchmark.evaluation.odinw import (
    ODINW_13,
    ODINW_35,
    find_runs,
    summarize_runs,
    summarize_tasks,
    summary_table,
    task_files,
    write_leaderboard,
    write_summary,
)

ROOT = Path(__file__).parents[2]
DETECTION = {"image_id": 3, "category_id": 1, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}


def write_result(folder: Path, ap: float, detections=(DETECTION,)) -> None:
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"bbox": {"AP": ap, "AP50": ap + 0.1}, "per_class": {}}))
    (folder / "bbox.json").write_text(json.dumps(list(detections)))


@pytest.fixture
def results(tmp_path) -> Path:
    for task, ap in (("pothole", 0.2), ("PascalVOC", 0.6), ("WildfireSmoke", 0.1)):
        write_result(tmp_path / "inference" / task / "val", ap)
    return tmp_path


def test_collections_are_the_files_of_the_tasks():
    assert len(ODINW_13) == 13 and len(ODINW_35) == 35 and set(ODINW_13) < set(ODINW_35)
    listed = json.loads((ROOT / "configs" / "odinw_35" / "_all.json").read_text())
    assert [Path(path).stem for path in listed] == list(ODINW_35)
    for name in ("odinw_13", "odinw_35"):
        files = task_files(name, ROOT / "configs")
        assert files == sorted(files) and all(path.parent.name == name for path in files)
    assert {path.stem for path in (ROOT / "configs" / "odinw_13").glob("*.yaml")} == set(ODINW_13)
    with pytest.raises(ValueError, match="collection 'odinw': known are odinw_13, odinw_35"):
        task_files("odinw")
    with pytest.raises(FileNotFoundError, match="13 of 13 task files are missing, the first: nowhere"):
        task_files("odinw_13", "nowhere")


def test_both_collections_in_one_command(tmp_path):
    """Tasks that both have are evaluated with the words of each, in folders that say which."""
    for name, ap in (("odinw_13-pothole", 0.2), ("odinw_35-pothole", 0.4), ("WildfireSmoke", 0.1)):
        write_result(tmp_path / "inference" / name / "val", ap)
    for collection, tasks in (("odinw_13", {"pothole": 0.2}), ("odinw_35", {"WildfireSmoke": 0.1, "pothole": 0.4})):
        summary = summarize_runs(find_runs(tmp_path, collection=collection), collection)
        assert {task: entry["AP"] for task, entry in summary["tasks"].items()} == tasks


def test_collections_are_found_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(task_files("odinw_13")) == 13
    assert len(tuning_files("configs/odinw_13/*.yaml")) == 13 and len(tuning_files("configs/lvis/val.yaml")) == 1
    (tmp_path / "configs/odinw_13").mkdir(parents=True)
    (tmp_path / "configs/odinw_13/own.yaml").touch()
    assert [path.name for path in tuning_files("configs/odinw_13/*.yaml")] == ["own.yaml"]
    with pytest.raises(FileNotFoundError, match="13 of 13 task files are missing"):
        task_files("odinw_13")


def test_mean_and_median(results):
    runs = find_runs(results)
    of_35, of_13 = summarize_runs(runs, "odinw_35"), summarize_runs(runs, "odinw_13")
    assert of_35["mean"] == pytest.approx(0.3) and of_35["median"] == 0.2 and len(of_35["missing"]) == 32
    assert of_13["mean"] == pytest.approx(0.4) and of_13["median"] == pytest.approx(0.4) and len(of_13["missing"]) == 11
    write_summary(results, "odinw_35", of_35)
    assert json.loads((results / "odinw_35.json").read_text()) == of_35
    rows = list(csv.reader((results / "odinw_35.csv").open()))
    assert rows[0] == ["task", "AP", "std", "seeds"] and [row[0] for row in rows[-2:]] == ["mean", "median"]
    assert summarize_tasks({})["mean"] is None


def test_mean_over_seeds():
    summary = summarize_tasks({"a": [0.1, 0.3], "b": [0.5, 0.5]})
    assert summary["tasks"]["a"] == {"AP": pytest.approx(0.2), "std": pytest.approx(0.1), "seeds": 2}
    assert summary["mean"] == pytest.approx(0.35) and summary["std"] == pytest.approx(0.05)
    assert summarize_tasks({"a": [0.1], "b": [0.5, 0.5]})["std"] is None


def test_tasks_with_nothing_to_find_do_not_count():
    summary = summarize_tasks({"a": [0.2], "b": [-1.0], "c": [0.4]})
    assert summary["mean"] == pytest.approx(0.3) and summary["median"] == pytest.approx(0.3)
    assert list(summary["tasks"]) == ["a", "c"] and summary["unmeasured"] == ["b"]
    assert ["b", "-", "", ""] in summary_table(summary).rows
    assert summarize_tasks({"b": [-1.0]})["mean"] is None


def test_leaderboard_of_zero_shot(results, tmp_path):
    write_leaderboard(tmp_path / "all.json", find_runs(results))
    content = json.loads((tmp_path / "all.json").read_text())
    assert content == {task: [DETECTION] for task in ("PascalVOC", "WildFireSmoke", "pothole")}
    write_leaderboard(tmp_path / "none.json", [])
    assert json.loads((tmp_path / "none.json").read_text()) == {}


def test_leaderboard_of_few_shot(tmp_path):
    for number in (1, 12):
        for seed in (3, 30, 300):
            folder = tmp_path / f"ft_task_{number}_seed_{seed}" / "inference"
            write_result(folder / "test", seed / 1000)
            write_result(folder / "val", 0.9, detections=[])
    with pytest.raises(ValueError, match="two results of task pothole, seed 3: .* name the test set"):
        find_runs(tmp_path, collection="odinw_13")
    runs = find_runs(tmp_path, "test", "odinw_13")
    write_leaderboard(tmp_path / "few.json", runs, names={"pothole": "Pothole"})
    content = json.loads((tmp_path / "few.json").read_text())
    seeds = {"3": [DETECTION], "30": [DETECTION], "300": [DETECTION]}
    assert content == {"AerialMaritimeDrone_large": seeds, "Pothole": seeds}
    summary = summarize_runs(runs, "odinw_13")
    assert summary["mean"] == pytest.approx(0.111) and summary["tasks"]["pothole"]["seeds"] == 3
    write_result(tmp_path / "pistols_export" / "test", 0.5)
    with pytest.raises(ValueError, match="results with and without seeds"):
        write_leaderboard(tmp_path / "mixed.json", find_runs(tmp_path, "test", "odinw_13"))
    assert not (tmp_path / "mixed.json").exists()
    write_result(tmp_path / "ft_task_14" / "test", 0.5)
    with pytest.raises(ValueError, match="task 14, but the collection has 13 tasks"):
        find_runs(tmp_path, "test", "odinw_13")


def test_bad_results(tmp_path):
    with pytest.raises(FileNotFoundError, match="no results of odinw_35 below"):
        find_runs(tmp_path)
    write_result(tmp_path / "pothole", 0.5, detections=[{"image_id": 1}])
    with pytest.raises(ValueError, match="bbox.json: a detection lacks category_id"):
        write_leaderboard(tmp_path / "all.json", find_runs(tmp_path))
    assert not (tmp_path / "all.json").exists()


def test_tool(results, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("odinw_results", ROOT / "tools" / "odinw_results.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    names = tmp_path / "names.json"
    names.write_text('{"pothole": "Potholes"}')
    leaderboard = tmp_path / "all.json"
    assert tool.main([str(results), "--leaderboard", str(leaderboard), "--names", str(names)]) == 0
    printed = capsys.readouterr().out
    assert "| mean" in printed and "0.4000" in printed and "without results: AerialMaritimeDrone_large" in printed
    assert set(json.loads(leaderboard.read_text())) == {"PascalVOC", "Potholes"}
