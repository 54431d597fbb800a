"""Fine-tuning the real detector at its smallest: what is trained, measured, tested and written, in every mode."""

import json
from pathlib import Path

import pytest
import torch
from data_files import write_grounding_toy
from nested_equality import assert_equal
from tiny_detector import make_text_folder, tiny_config
from tuning_data import write_task

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.engine import inference
from maskrcnn_benchmark.engine.training.training_run import RunOptions
from maskrcnn_benchmark.engine.tuning.finetune import TuningOptions, fine_tune
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.utils.weight_files import read_checkpoint

RUN = """
    INPUT.MIN_SIZE_TRAIN 64 INPUT.MIN_SIZE_TEST 64 AUGMENT.MULT_MIN_SIZE_TRAIN (64,) DATALOADER.NUM_WORKERS 0
    DATALOADER.ASPECT_RATIO_GROUPING False SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_EPOCH 2 SOLVER.CHECKPOINT_PER_EPOCH 1.0
    SOLVER.USE_AMP False SOLVER.MODEL_EMA 0.0 SOLVER.USE_AUTOSTEP True SOLVER.WARMUP_ITERS 0 SOLVER.SEED 10
    SOLVER.STEP_PATIENCE 3 SOLVER.AUTO_TERMINATE_PATIENCE 8 TEST.DURING_TRAINING True TEST.IMS_PER_BATCH 2
    TEST.EVAL_TASK detection DATASETS.FEW_SHOT 1 DATASETS.DISABLE_SHUFFLE True MODEL.ATSS.INFERENCE_TH 0.0
""".split()


@pytest.fixture
def cfg(tmp_path):
    """Starts from random weights in a file, which has no table for a prompt."""
    text = make_text_folder(tmp_path / "text")
    task = write_task(tmp_path, "task", train=4, val=2, test=2)
    torch.manual_seed(0)
    start = build_detection_model(tiny_config(text))
    torch.save({"model": start.state_dict()}, tmp_path / "start.pth")
    node = tiny_config(text, "MODEL.WEIGHT", str(tmp_path / "start.pth"), "OUTPUT_DIR", str(tmp_path / "out"), *RUN)
    node.merge_from_file(task)
    return node


@pytest.fixture
def scores(monkeypatch):
    """`scores(0.2, 0.1)`: prescribes AP of the next validations, of the start too."""
    prescribed: list[float] = []

    def measure_model(cfg, model, loaders, device):
        return [{"AP": prescribed.pop(0)}]

    monkeypatch.setattr(inference, "measure_model", measure_model)
    return prescribed.extend


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(path)["model"]


def changed(cfg, name: str) -> set[str]:
    start = weights(Path(cfg.MODEL.WEIGHT))
    after = weights(Path(cfg.OUTPUT_DIR, name))
    return {key for key, value in after.items() if key not in start or not torch.equal(value, start[key])}


def test_a_finished_run_trains_on_from_its_weights(cfg):
    """With the optimizer and the count of a checkpoint left out, the same call begins anew where the last one ended."""
    cfg.SOLVER.TUNING_HIGHLEVEL_OVERRIDE, cfg.SOLVER.MAX_EPOCH = "language_prompt_v2", 1
    table = "rpn.tunable_linear.weight"
    fine_tune(cfg, torch.device("cpu"), TuningOptions(skip_test=True))
    first = weights(Path(cfg.OUTPUT_DIR, "model_final.pth"))[table]
    options = TuningOptions(RunOptions(resumes_weights_only=True), skip_test=True)
    result = fine_tune(cfg, torch.device("cpu"), options)
    second = weights(Path(cfg.OUTPUT_DIR, "model_final.pth"))[table]
    assert [iteration for iteration, _ in result.history] == [1]
    assert 0 < (second - first).abs().max() <= 1.5 * first.abs().max(), "another step from there"


def test_result_and_files(cfg, tmp_path):
    cfg.SOLVER.TUNING_HIGHLEVEL_OVERRIDE = "full"
    options = TuningOptions(RunOptions(measures_start=True), test_sets=("val", "test"))
    result = fine_tune(cfg, torch.device("cpu"), options)
    assert result.is_finished and result.checkpoint == str(tmp_path / "out/model_final.pth")
    assert [iteration for iteration, _ in result.history] == [1, 2] and result.last == result.history[-1][1]
    assert {"AP", "AP50"} <= result.start.keys() and result.best == max(values["AP"] for _, values in result.history)
    assert result.test["val"] == pytest.approx(result.last, abs=1e-6), "the last weights on the validation set"
    for name in ("val", "test"):
        assert {"bbox.json", "bbox.csv", "metrics.json"} <= {
            path.name for path in (tmp_path / "out/inference" / name).iterdir()
        }
    stored = json.loads((tmp_path / "out/results.json").read_text())
    assert stored["test"] == result.test and stored["best"] == result.best
    again = fine_tune(cfg, torch.device("cpu"), options)
    assert again == result
    assert not cfg.MODEL.BACKBONE.FREEZE and cfg.SOLVER.MAX_ITER != 2, "the caller's configuration is left alone"


MODES = {
    "linear_prob": {"bbox_pred", "centerness", "dot_product_projection_text", "log_scale", "bias_lang", "bias0"},
    "language_prompt_v2": {"tunable_linear"},
    "language_prompt_v4_fixed": {
        "bbox_pred", "centerness", "dot_product_projection_text", "log_scale", "bias_lang", "bias0", "tunable_linear"
    },
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_only_what_a_mode_trains_changes(cfg, mode, scores):
    scores([0.1, 0.2])
    cfg.SOLVER.TUNING_HIGHLEVEL_OVERRIDE = mode
    fine_tune(cfg, torch.device("cpu"), TuningOptions(skip_test=True))
    names = changed(cfg, "model_final.pth")
    assert {next(part for part in MODES[mode] if f".{part}" in name) for name in names} == MODES[mode]


def test_best_weights_are_tested(cfg, tmp_path, scores):
    scores([0.3, 0.1])
    cfg.SOLVER.TUNING_HIGHLEVEL_OVERRIDE = "linear_prob"
    result = fine_tune(cfg, torch.device("cpu"), TuningOptions(tests_best=True))
    assert result.best == 0.3 and result.last == {"AP": 0.1}
    assert result.checkpoint == str(tmp_path / "out/model_best.pth")
    assert read_checkpoint(tmp_path / "out/model_best.pth")["iteration"] == 1
    assert list(result.test) == ["val"] and (tmp_path / "out/eval/model_best/inference/val/bbox.json").exists()


def test_best_weights_of_an_earlier_run_are_not_tested(cfg, tmp_path, scores, caplog):
    """They may well be what the new run starts from, so they stay."""
    scores([0.3, 0.1])
    cfg.SOLVER.TUNING_HIGHLEVEL_OVERRIDE = "language_prompt_v2"
    fine_tune(cfg, torch.device("cpu"), TuningOptions(skip_test=True))
    cfg.TEST.DURING_TRAINING, cfg.SOLVER.USE_AUTOSTEP = False, False
    scores([0.2])
    options = TuningOptions(RunOptions(resume="none"), tests_best=True)
    result = fine_tune(cfg, torch.device("cpu"), options)
    assert (tmp_path / "out/model_best.pth").exists()
    assert result.checkpoint == str(tmp_path / "out/model_final.pth") and "testing the last weights" in caplog.text


def test_rates_drop_and_training_ends_by_the_validation_score(cfg, tmp_path, scores):
    """The best comes first; with patience 1 the third score drops the rates, with patience 4 the fifth ends it."""
    scores([0.5, 0.4, 0.4, 0.4, 0.4])
    cfg.SOLVER.MAX_EPOCH, cfg.SOLVER.STEP_PATIENCE, cfg.SOLVER.AUTO_TERMINATE_PATIENCE = 20, 1, 4
    cfg.SOLVER.TUNING_HIGHLEVEL_OVERRIDE = "linear_prob"
    result = fine_tune(cfg, torch.device("cpu"), TuningOptions(skip_test=True))
    final = read_checkpoint(tmp_path / "out/model_final.pth")
    assert final["iteration"] == 5 and len(result.history) == 5
    rates = {
        iteration: read_checkpoint(tmp_path / f"out/model_{iteration:07d}.pth")["optimizer"]["param_groups"][0]["lr"]
        for iteration in (1, 2, 3, 4)
    }
    assert rates[2] == rates[1] and rates[3] == pytest.approx(rates[2] * cfg.SOLVER.GAMMA)


def test_weights_without_training(cfg, tmp_path, caplog):
    options = TuningOptions(skip_train=True, tests_best=True)
    result = fine_tune(cfg, torch.device("cpu"), options)
    assert result.checkpoint == cfg.MODEL.WEIGHT and list(result.test) == ["val"] and result.history == []
    assert "model_best.pth of this run" in caplog.text
    assert not list((tmp_path / "out").glob("*.pth"))


def test_captions_have_no_few_shot(cfg, tmp_path, caplog, scores):
    scores([0.1])
    entry = {"type": "modulated", "img_dir": str(tmp_path), "ann_file": str(write_grounding_toy(tmp_path))}
    cfg.DATASETS.REGISTER["words"] = CfgNode(entry)
    cfg.DATASETS.TRAIN, cfg.SOLVER.MAX_EPOCH = ("train", "words"), 1
    fine_tune(cfg, torch.device("cpu"), TuningOptions(skip_test=True))
    assert "DATASETS.FEW_SHOT has no effect on words, which are used whole" in caplog.text
    assert list(json.loads((tmp_path / "out/few_shot_images.json").read_text())) == ["train"]


def test_nothing_to_test_on(cfg):
    cfg.DATASETS.TEST, cfg.TEST.DURING_TRAINING, cfg.SOLVER.USE_AUTOSTEP = (), False, False
    with pytest.raises(ValueError, match="DATASETS.TEST is empty: name a set to test on, or use --skip-test"):
        fine_tune(cfg, torch.device("cpu"), TuningOptions(skip_train=True))


def test_prompt_of_an_earlier_tuning_is_gone_on_with(cfg, tmp_path, scores):
    """A base without the table starts from zeros, a tuned one from its prompt."""
    scores([0.1, 0.1, 0.1, 0.1])
    cfg.SOLVER.TUNING_HIGHLEVEL_OVERRIDE = "language_prompt_v2"
    fine_tune(cfg, torch.device("cpu"), TuningOptions(skip_test=True))
    table = weights(tmp_path / "out/model_final.pth")["rpn.tunable_linear.weight"]
    assert table[:4].abs().max() > 0
    cfg.MODEL.WEIGHT, cfg.OUTPUT_DIR = str(tmp_path / "out/model_final.pth"), str(tmp_path / "second")
    cfg.SOLVER.BASE_LR = 0.0
    fine_tune(cfg, torch.device("cpu"), TuningOptions(skip_test=True))
    assert torch.equal(weights(tmp_path / "second/model_final.pth")["rpn.tunable_linear.weight"], table)
    cfg.SOLVER.TUNING_HIGHLEVEL_OVERRIDE, cfg.OUTPUT_DIR = "full", str(tmp_path / "third")
    with pytest.raises(ValueError, match="tunable_linear.weight is a learnt prompt: set .*ADD_LINEAR_LAYER True"):
        fine_tune(cfg, torch.device("cpu"))


def test_stopped_run_goes_on_to_the_same_result(cfg, tmp_path):
    """Stopped after every iteration, in a mode with dropout, with validation and the rates that follow it."""
    cfg.SOLVER.TUNING_HIGHLEVEL_OVERRIDE, cfg.SOLVER.STEP_PATIENCE = "language_prompt_v3_fixed", 1
    cfg.DATASETS.GENERAL_COPY, cfg.OUTPUT_DIR = 2, str(tmp_path / "whole")
    whole = fine_tune(cfg, torch.device("cpu"), TuningOptions(skip_test=True))
    cfg.OUTPUT_DIR = str(tmp_path / "parts")
    stops = 0
    while not (
        parts := fine_tune(cfg, torch.device("cpu"), TuningOptions(RunOptions(deadline=0.0), skip_test=True))
    ).is_finished:
        stops += 1
    assert stops == 3
    one, other = (read_checkpoint(tmp_path / name / "model_final.pth") for name in ("whole", "parts"))
    assert_equal(one, other)
    assert (whole.history, whole.best, whole.last) == (parts.history, parts.best, parts.last)
