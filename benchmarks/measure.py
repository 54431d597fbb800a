"""Timing, and the description of the machine that belongs to every figure."""

import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
import torchvision

ROOT = Path(__file__).resolve().parents[1]


class Timing(NamedTuple):
    """Seconds of the measured runs: the median, and the fastest and slowest of them."""

    median_s: float
    fastest_s: float
    slowest_s: float
    runs: int


def time_runs(
    function: Callable[[], object],
    device: torch.device,
    *,
    runs: int = 20,
    warm_up: int = 3,
    prepare: Callable[[], object] | None = None,
) -> Timing:
    """Wall-clock time of calls that begin and end with an idle device; `prepare` runs before each, untimed."""
    seconds = []
    for run in range(warm_up + runs):
        if prepare is not None:
            prepare()
        synchronise(device)
        start = time.perf_counter()
        function()
        synchronise(device)
        if run >= warm_up:
            seconds.append(time.perf_counter() - start)
    return Timing(median(seconds), min(seconds), max(seconds), runs)


def synchronise(device: torch.device) -> None:
    """Waits for the work that was given to a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def show(lines: Iterable[str], output: Path | None) -> None:
    """Writes lines to the standard output as they come, and all that there are to a file."""
    shown: list[str] = []
    for line in lines:
        shown.append(line)
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
        if output:
            output.write_text("\n".join(shown) + "\n", encoding="utf-8")


def machine(device: torch.device) -> str:
    """What the figures were measured on: device, threads, versions and commit. Ends the program if it is not there."""
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise SystemExit("this benchmark needs a CUDA device; benchmarks/run.py also measures on a CPU")
        name = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    else:
        name = f"{_processor()}, {torch.get_num_threads()} threads"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}"
    return f"{name}; {versions}; commit {_commit()}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The short hash of the checkout, with a plus sign where files differ from it; "unknown" outside of git."""
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return found.stdout.strip() or "unknown"
