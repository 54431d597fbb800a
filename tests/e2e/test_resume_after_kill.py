"""A run that is killed in mid-epoch and started again goes on as if nothing had happened, bit for bit."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nested_equality import assert_equal
from recorded_run import train
from toy_run import write_config
from two_pictures import two_pictures_config

from maskrcnn_benchmark.engine.training import training_run
from maskrcnn_benchmark.utils.weight_files import read_checkpoint

TESTS = Path(__file__).parents[1]
KILLED_AT, RESUMED_AT, LAST = 13, 10, 30  # iterations
ENTRIES = f"""
    DATALOADER.NUM_WORKERS 2 SOLVER.USE_AMP True SOLVER.AMP_DTYPE float16 SOLVER.MODEL_EMA 0.9 SOLVER.IMS_PER_BATCH 2
    SOLVER.MAX_ITER {LAST} SOLVER.CHECKPOINT_PERIOD 5
""".split()


def write_detector_config(folder: Path) -> Path:
    cfg = two_pictures_config(folder)
    cfg.DATASETS.GENERAL_COPY = 10
    path = folder / "detector.yaml"
    path.write_text(cfg.dump())
    return path


@pytest.mark.parametrize("kind", ["toy", pytest.param("detector", marks=pytest.mark.slow)])
def test_killed_run_equals_an_undisturbed_one(tmp_path, bert_vocabulary, monkeypatch, kind):
    monkeypatch.setattr(training_run, "build_detection_model", None)  # put back afterwards
    threads = torch.get_num_threads()
    if kind == "toy":
        config = write_config(tmp_path, bert_vocabulary)
        config.write_text(config.read_text().replace("DATASETS:", "DATASETS:\n  GENERAL_COPY: 10"))
    else:
        config = write_detector_config(tmp_path)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    arguments = ("--config-file", str(config), *ENTRIES)
    process = subprocess.Popen(
        [sys.executable, TESTS / "recorded_run.py", kind, parts, str(KILLED_AT), *arguments],
        env=os.environ | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        train(kind, str(whole), 0, *arguments)
        assert process.wait(600) == -signal.SIGKILL
        assert (parts / "last_checkpoint").read_text() == f"model_{RESUMED_AT:07d}.pth"
        train(kind, str(parts), 0, *arguments)
    finally:
        process.kill()
        process.wait()
        torch.set_num_threads(threads)

    left_out = set(map(int, re.findall(r"Iteration (\d+): .* batch left out", (whole / "log.txt").read_text())))
    iterations = [iteration for iteration in range(1, LAST + 1) if iteration not in left_out]
    lines, seen = ((folder / "losses.txt").read_text().splitlines() for folder in (whole, parts))
    expected = dict(zip(iterations, lines, strict=True))
    assert len(set(lines)) == len(lines) > 25, "every iteration is different"
    assert seen[:KILLED_AT] == lines[:KILLED_AT], "the same start in another process"
    assert seen[KILLED_AT:] == [line for iteration, line in expected.items() if iteration > RESUMED_AT]
    one, other = (read_checkpoint(folder / "model_final.pth") for folder in (whole, parts))
    assert {"model", "optimizer", "scheduler", "scaler", "model_ema", "random_state", "iteration"} <= one.keys()
    assert one["scaler"]["scale"] > 0 and one["iteration"] == LAST
    assert_equal(one, other)
