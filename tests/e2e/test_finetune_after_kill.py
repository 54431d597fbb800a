"""A fine-tuning command that is killed in its second training goes on to the same result."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from nested_equality import assert_equal
from tiny_detector import REPOSITORY, make_text_folder, tiny_config
from tuning_data import write_task

from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.utils.weight_files import read_checkpoint

OPTIONS = """
    INPUT.MIN_SIZE_TRAIN 64 INPUT.MIN_SIZE_TEST 64 AUGMENT.MULT_MIN_SIZE_TRAIN (64,) DATALOADER.NUM_WORKERS 2
    DATALOADER.ASPECT_RATIO_GROUPING False SOLVER.IMS_PER_BATCH 2 SOLVER.CHECKPOINT_PER_EPOCH 1.0 SOLVER.USE_AMP True
    SOLVER.MODEL_EMA 0.9 SOLVER.USE_AUTOSTEP True SOLVER.WARMUP_ITERS 2 SOLVER.SEED 10 SOLVER.STEP_PATIENCE 1
    SOLVER.AUTO_TERMINATE_PATIENCE 8 TEST.DURING_TRAINING True TEST.IMS_PER_BATCH 2 TEST.EVAL_TASK detection
    MODEL.ATSS.INFERENCE_TH 0.0
""".split()
FLAGS = ["--custom_shot_and_epoch_and_general_copy", "2_4_2", "--shuffle_seeds", "3,30", "--measure_start"]


def start(folder: Path, out: str) -> subprocess.Popen:
    words = [
        "--config-file",
        folder / "model.yaml",
        "--ft-tasks",
        folder / "task.yaml",
        *FLAGS,
        "OUTPUT_DIR",
        folder / out,
    ]
    return subprocess.Popen(
        [sys.executable, "tools/finetune.py", *map(str, words)],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 240
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()[-2000:]
        time.sleep(0.02)


def end(process: subprocess.Popen) -> None:
    """Leaves nothing of a command, whether it has ended or not."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()


@pytest.mark.slow
def test_killed_command_equals_an_undisturbed_one(tmp_path):
    text = make_text_folder(tmp_path / "text")
    write_task(tmp_path, "task", train=9, val=4)
    cfg = tiny_config(text, *OPTIONS, "MODEL.WEIGHT", str(tmp_path / "start.pth"))
    torch.manual_seed(0)
    torch.save({"model": build_detection_model(cfg).state_dict()}, tmp_path / "start.pth")
    (tmp_path / "model.yaml").write_text(cfg.dump())
    killed = start(tmp_path, "parts")
    try:
        wait_for(tmp_path / "parts/ft_task_1_seed_30/model_best.pth", killed)
    finally:
        end(killed)
    assert not (tmp_path / "parts/ft_task_1_seed_30/model_final.pth").exists()
    for out in ("parts", "whole"):
        process = start(tmp_path, out)
        try:
            _, errors = process.communicate(timeout=240)  # reads along, as a full pipe would stop it
        finally:
            end(process)
        assert process.returncode == 0, errors[-2000:]
    results = {out: json.loads((tmp_path / out / "results.json").read_text()) for out in ("parts", "whole")}
    assert results["parts"]["summary"] == results["whole"]["summary"]
    assert [run["history"] for run in results["parts"]["runs"]] == [run["history"] for run in results["whole"]["runs"]]
    for seed in (3, 30):
        one, other = (
            read_checkpoint(tmp_path / out / f"ft_task_1_seed_{seed}/model_final.pth") for out in ("whole", "parts")
        )
        assert_equal(one, other)
