"""Runs the tests of a file again in a process where Triton interprets its kernels on CPU tensors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from maskrcnn_benchmark.ops.kernels.triton_support import triton

IS_INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"


def check_interpreted(path: str) -> None:
    """Fails unless every test of the file passes with interpreted kernels; skips where Triton is not installed."""
    if triton is None:
        pytest.skip("Triton is not installed")
    if IS_INTERPRETING:
        pytest.skip("this process interprets already")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not gpu", path]
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=600
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-1000:]
    assert " passed" in result.stdout, result.stdout
