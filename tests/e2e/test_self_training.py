"""The experiment of self-training, as small as it gets: from nothing to its table, in two goes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "self_training.py"


@pytest.mark.slow
def test_from_scenes_to_the_table(tmp_path):
    work = tmp_path / "work"
    numbers = ["--labelled", "4", "--unlabelled", "4", "--val", "2", "--iterations", "2", "--batch-size", "2"]
    command = [sys.executable, str(SCRIPT), "--work", str(work), *numbers, "--size", "128", "--workers", "0"]

    def run(*words: str) -> subprocess.CompletedProcess:
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run([*command, *words], capture_output=True, text=True, env=environment)

    first = run("--max-minutes", "0.01")
    assert first.returncode == 1 and "run the same command again" in first.stdout, first.stderr
    assert (work / "unlabelled" / "pairs.jsonl").is_file() and not (work / "labels").exists()
    second = run()
    assert second.returncode == 0, second.stderr
    assert "| trained on | AP | AP50 | AP75 |" in second.stdout and "gain: " in second.stdout
    assert sum(1 for _ in (work / "unlabelled" / "pairs.jsonl").open()) == 8
    other = run("--iterations", "3")
    assert other.returncode == 2 and "was begun with other arguments" in other.stderr
