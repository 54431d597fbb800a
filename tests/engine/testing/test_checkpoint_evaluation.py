"""Evaluation of the checkpoints of a run, by the command of the original."""

import json
import shutil

import pytest
from evaluation_data import write_coco
from published_command import Setting
from tiny_detector import REPOSITORY

from maskrcnn_benchmark.cli.console import BAD_INPUT, report_errors
from maskrcnn_benchmark.cli.tools import run_checkpoint_evaluation
from maskrcnn_benchmark.engine.testing.checkpoint_evaluation import find_checkpoints

BASE = "glip_Swin_T_O365_GoldG"
REGISTER = "{img_dir: coco/val2017, ann_file: coco/annotations/instances_val2017.json}"


@pytest.fixture
def place(tmp_path, monkeypatch) -> Setting:
    """A data root, and a run with two checkpoints and its configuration."""
    write_coco(tmp_path)
    monkeypatch.setenv("DATASET", str(tmp_path))
    monkeypatch.chdir(REPOSITORY)
    setting = Setting(
        tmp_path, BASE, "tiny.pth", ("INPUT.MIN_SIZE_TEST", 64, "MODEL.ATSS.INFERENCE_TH", 0.0, "TEST.SUBSET", 1)
    )
    run = tmp_path / "out"
    run.mkdir()
    for name in ("model_best.pth", "model_0000010.pth"):
        shutil.copy(setting.weight, run / name)
    text = (REPOSITORY / f"configs/pretrain/{BASE}.yaml").read_text()
    sets = f"  TEST: [val]\n  REGISTER: {{val: {REGISTER}, test: {REGISTER}}}\n"
    start, end = text.split("DATASETS:\n")
    kept = [line for line in end.splitlines(keepends=True) if not line.startswith("  TEST: [")]
    (run / "config.yml").write_text(f"{start}DATASETS:\n{sets}{''.join(kept)}")
    return setting


def evaluate(place: Setting, *words) -> int:
    flags = ["--config-file", str(place.folder / "out/config.yml"), *words, *place.sizes]
    return report_errors(lambda: run_checkpoint_evaluation(None, flags))


def test_every_checkpoint(place):
    assert evaluate(place) == 0
    summary = json.loads((place.folder / "out/eval/summary.json").read_text())
    assert list(summary) == ["model_0000010", "model_best"] and "AP50" in summary["model_best"]["val"]
    assert (place.folder / "out/eval/model_best/inference/val/bbox.csv").is_file()


def test_best_one_on_val_and_test(place):
    assert evaluate(place, "--evaluate_only_best_on_test", "--push_both_val_and_test") == 0
    results = place.folder / "out/eval/model_best/inference"
    assert sorted(path.name for path in results.iterdir()) == ["test", "val"]
    assert not (place.folder / "out/eval/model_0000010").exists()
    before = (place.folder / "out/eval/summary.json").read_bytes()
    assert evaluate(place, "--skip_eval") == 0
    assert (place.folder / "out/eval/summary.json").read_bytes() == before


def test_figures_of_earlier_commands_stay(place):
    summary = place.folder / "out/eval/summary.json"
    summary.parent.mkdir()
    summary.write_text(json.dumps({"model_0000010": {"val": {"AP": 0.5}}, "model_best": {"big": {"AP": 0.4}}}))
    assert evaluate(place, "--evaluate_only_best_on_test") == 0
    figures = json.loads(summary.read_text())
    assert figures["model_0000010"] == {"val": {"AP": 0.5}} and figures["model_best"]["big"] == {"AP": 0.4}
    assert set(figures["model_best"]) == {"big", "val", "test"}


def test_a_summary_that_is_not_there_yet(place, capsys):
    assert evaluate(place, "--skip_eval") == BAD_INPUT
    assert "eval/summary.json does not exist: evaluate first, without --skip_eval" in capsys.readouterr().err


def test_which_checkpoints(place, capsys):
    run = place.folder / "out"
    assert [path.name for path in find_checkpoints(run, step=2)] == ["model_0000010.pth"]
    with pytest.raises(ValueError, match="--eval_freq 0"):
        find_checkpoints(run, step=0)
    (run / "bad_batch_0000007_rank0.pth").touch()  # of a loss that was not finite
    assert [path.name for path in find_checkpoints(run)] == ["model_0000010.pth", "model_best.pth"]
    for path in run.glob("*.pth"):
        path.unlink()
    assert evaluate(place) == BAD_INPUT
    assert "no checkpoints found" in capsys.readouterr().err


def test_the_configuration_is_asked_for_by_its_flag(capsys):
    """Not with the flags of other commands, --weight and --model, which this one lacks."""
    assert report_errors(lambda: run_checkpoint_evaluation(None, ["OUTPUT_DIR", "out"])) == BAD_INPUT
    error = capsys.readouterr().err
    assert "--config-file" in error and "--model" not in error
