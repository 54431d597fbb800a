"""The few-shot experiment on drawn scenes, as small as it gets: two trainings at a time, and the same command again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "few_shot_scenes.py"


@pytest.mark.slow
def test_from_scenes_to_the_table(tmp_path):
    numbers = ["--modes", "linear", "--shots", "1", "--seeds", "0", "1", "--iterations", "1", "--batch-size", "1"]
    scenes = ["--scenes", "60", "1", "1", "--device", "cpu", "--processes", "2"]
    command = [sys.executable, str(SCRIPT), "--output", str(tmp_path / "out"), *numbers, *scenes]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert "| shots | zero-shot | linear |" in first.stdout and "±" in first.stdout
    record = json.loads((tmp_path / "out" / "few_shot.json").read_text())
    assert [(run["mode"], run["shots"], run["seed"]) for run in record["scores"]] == [
        ("linear", 1, 0),
        ("linear", 1, 1),
    ]
    weights = tmp_path / "out" / "linear_1_0" / "model_final.pth"
    changed = weights.stat().st_mtime_ns
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0 and again.stdout.splitlines()[-1] == first.stdout.splitlines()[-1], again.stderr
    assert weights.stat().st_mtime_ns == changed, "what is done is not trained again"
