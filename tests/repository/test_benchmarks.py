"""What the benchmarks say of the machine."""

import importlib.util
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def measure():
    """benchmarks/measure.py."""
    spec = importlib.util.spec_from_file_location("measure", BENCHMARKS / "measure.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_missing_gpu_ends_a_benchmark_with_one_line(measure, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="^this benchmark needs a CUDA device.*run.py"):
        measure.machine(torch.device("cuda"))


def test_a_cpu_is_described(measure):
    shown = measure.machine(torch.device("cpu"))
    assert f"{torch.get_num_threads()} threads" in shown and f"torch {torch.__version__}" in shown
