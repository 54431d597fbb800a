"""A fine-tuning command that is killed in its second training goes on to the same result."""

import json
import os
import signal
import subprocess
import sys
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


KILLED = """
import os, runpy, signal, sys
from maskrcnn_benchmark.utils.checkpoint import Checkpointer

save = Checkpointer.save

def save_and_end(self, name, **entries):
    save(self, name, **entries)
    if name == "model_best" and self.save_dir.endswith("ft_task_1_seed_30"):
        os.killpg(0, signal.SIGKILL)

Checkpointer.save = save_and_end
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start(folder: Path, out: str, *program: str) -> subprocess.Popen:
    """The command, or a program that runs the file it is given, in a session of its own."""
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
        [sys.executable, *program, "tools/finetune.py", *map(str, words)],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


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
    for out, program, exit_code in (("parts", ("-c", KILLED), -signal.SIGKILL), ("parts", (), 0), ("whole", (), 0)):
        process = start(tmp_path, out, *program)
        try:
            _, errors = process.communicate(timeout=600)  # reads along, as a full pipe would stop it
        finally:
            end(process)
        assert process.returncode == exit_code, errors[-2000:]
        is_whole = (tmp_path / out / "ft_task_1_seed_30/model_final.pth").exists()
        assert is_whole == (exit_code == 0)
    results = {out: json.loads((tmp_path / out / "results.json").read_text()) for out in ("parts", "whole")}
    assert results["parts"]["summary"] == results["whole"]["summary"]
    assert [run["history"] for run in results["parts"]["runs"]] == [run["history"] for run in results["whole"]["runs"]]
    for seed in (3, 30):
        one, other = (
            read_checkpoint(tmp_path / out / f"ft_task_1_seed_{seed}/model_final.pth") for out in ("whole", "parts")
        )
        assert_equal(one, other)
