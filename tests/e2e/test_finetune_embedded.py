"""The model that ships with the package learns a new style of pictures from three of each class, in every mode."""

import json
from pathlib import Path

import pytest
from toy_run import load_tool
from tuning_data import write_task

REPOSITORY = Path(__file__).parents[2]
OPTIONS = """
    MODEL.DEVICE cpu SOLVER.LANG_LR 0.00001 SOLVER.IMS_PER_BATCH 4 SOLVER.WARMUP_ITERS 0 SOLVER.CHECKPOINT_PER_EPOCH 2.0
    SOLVER.USE_AUTOSTEP True SOLVER.USE_AMP False SOLVER.STEP_PATIENCE 3 SOLVER.MODEL_EMA 0.0 SOLVER.SEED 10
    TEST.DURING_TRAINING True TEST.EVAL_TASK detection TEST.IMS_PER_BATCH 4 INPUT.MIN_SIZE_TRAIN 128
    INPUT.MIN_SIZE_TEST 128 DATALOADER.NUM_WORKERS 0
""".split()
MODES = {  # name: base rate, AP gained at least
    "full": (0.0001, 0.3),
    "linear_prob": (0.0001, 0.03),
    "language_prompt_v2": (0.01, 0.03),
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_three_pictures_per_class_help(tmp_path, monkeypatch, mode):
    monkeypatch.chdir(REPOSITORY)
    rate, gain = MODES[mode]
    task = write_task(tmp_path, "task", train=30, val=12, test=12)
    words = [
        "--config-file", "configs/scenes/glip_nano.yaml", "--ft-tasks", str(task),
        "--custom_shot_and_epoch_and_general_copy", "3_4_4", "--shuffle_seeds", "3", "--measure_start",
        "--evaluate_only_best_on_test", "MODEL.WEIGHT", "maskrcnn_benchmark/assets/glip_nano/model.safetensors",
        "OUTPUT_DIR", str(tmp_path / "out"), "SOLVER.TUNING_HIGHLEVEL_OVERRIDE", mode, "SOLVER.BASE_LR", str(rate),
    ]  # fmt: skip
    assert load_tool("finetune").main(words + OPTIONS) == 0
    (run,) = json.loads((tmp_path / "out/results.json").read_text())["runs"]
    assert run["test"]["test"]["AP"] >= run["start"]["AP"] + gain
