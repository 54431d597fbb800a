"""Fine-tuning with two processes against one: the same pictures, the same checkpoint, the same figures.

A batch is all pictures, since processes take them from different parts of an epoch.
"""

import json
from pathlib import Path

import pytest
import torch
from tiny_detector import make_text_folder, tiny_config
from torch import nn
from tuning_data import write_task
from two_processes import run_two

from maskrcnn_benchmark.engine.training import training_run
from maskrcnn_benchmark.engine.tuning.finetune import TuningOptions, TuningResult, fine_tune
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.utils.weight_files import read_checkpoint

OPTIONS = """
    INPUT.MIN_SIZE_TRAIN 64 INPUT.MIN_SIZE_TEST 64 AUGMENT.MULT_MIN_SIZE_TRAIN (64,) AUGMENT.FLIP_PROB_TRAIN 0.0
    DATALOADER.NUM_WORKERS 0 DATALOADER.ASPECT_RATIO_GROUPING False DATASETS.DISABLE_SHUFFLE True
    DATASETS.FEW_SHOT 3 DATASETS.SHUFFLE_SEED 3 SOLVER.SEED 10 SOLVER.IMS_PER_BATCH 4 SOLVER.MAX_EPOCH 3
    SOLVER.CHECKPOINT_PER_EPOCH 1.0 SOLVER.USE_AMP False SOLVER.MODEL_EMA 0.0 SOLVER.USE_AUTOSTEP True
    SOLVER.WARMUP_ITERS 0 SOLVER.STEP_PATIENCE 3 SOLVER.AUTO_TERMINATE_PATIENCE 8 SOLVER.OPTIMIZER SGD
    TEST.DURING_TRAINING True TEST.IMS_PER_BATCH 2 TEST.EVAL_TASK detection MODEL.ATSS.INFERENCE_TH 0.0
""".split()
RUNS = {  # name: mode, rate, options of two processes
    "full": ("full", 0.01, ()),
    "prompt": ("language_prompt_v2", 0.5, ()),
    "prompt of shards": ("language_prompt_v2", 0.5, ("SOLVER.FSDP", True)),
    "linear probe of parts": ("linear_prob", 0.01, ("SOLVER.GRADIENT_ACCUMULATION", 2)),
}


def without_dropout(cfg) -> nn.Module:
    """Processes draw different dropout, as their pictures differ."""
    model = build_detection_model(cfg)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("drop_prob", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def tune(rank: int, folder: str, name: str) -> dict[str, TuningResult]:
    """All runs, with results in folder/NAME/RUN; body of one process."""
    training_run.build_detection_model = without_dropout
    results = {}
    for run, (mode, rate, options) in RUNS.items():
        cfg = tiny_config(Path(folder, "text"), "MODEL.WEIGHT", f"{folder}/start.pth", *OPTIONS)
        cfg.merge_from_file(Path(folder, "task.yaml"))
        cfg.SOLVER.BASE_LR = cfg.SOLVER.LANG_LR = rate
        cfg.SOLVER.TUNING_HIGHLEVEL_OVERRIDE, cfg.OUTPUT_DIR = mode, f"{folder}/{name}/{run}"
        cfg.merge_from_list(list(options) if name == "two" else [])
        results[run] = fine_tune(cfg, torch.device("cpu"), TuningOptions())
    return results


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path, monkeypatch):
    monkeypatch.setattr(training_run, "build_detection_model", build_detection_model)  # put back afterwards
    text = make_text_folder(tmp_path / "text")
    write_task(tmp_path, "task", train=4, val=4)
    torch.manual_seed(0)
    torch.save({"model": build_detection_model(tiny_config(text)).state_dict()}, tmp_path / "start.pth")
    alone = tune(0, str(tmp_path), "one")
    first, second = run_two(tune, tmp_path, str(tmp_path), "two")
    start = read_checkpoint(tmp_path / "start.pth")["model"]
    for run, (mode, _, _) in RUNS.items():
        assert first[run] == second[run], "all processes know the same"
        assert [step for step, _ in first[run].history] == [step for step, _ in alone[run].history]
        for (_, one), (_, two) in zip(alone[run].history, first[run].history, strict=True):
            assert two == pytest.approx(one, abs=1e-3)
        assert first[run].test["val"] == pytest.approx(alone[run].test["val"], abs=1e-3)
        notes = [(tmp_path / name / run / "few_shot_images.json").read_text() for name in ("one", "two")]
        assert notes[0] == notes[1] and len(json.loads(notes[0])["train"]["image_ids"]) == 4
        one, two = (read_checkpoint(tmp_path / name / run / "model_final.pth")["model"] for name in ("one", "two"))
        for key, value in one.items():
            if value.is_floating_point():
                change = (value - start.get(key, torch.zeros_like(value))).norm()
                assert (two[key] - value).norm() <= 2e-3 * (change + 1e-3 * value.norm().clamp(min=0.1)), (run, key)
        moved = [key for key, value in one.items() if key not in start or not torch.equal(value, start[key])]
        expected = {"full": range(100, 1000), "language_prompt_v2": [1], "linear_prob": [9]}[mode]
        assert len(moved) in expected, (run, moved)
