"""Reading and comparing the arrays recorded from the original implementation.

A golden file stores small tensors whole under ``NAME``. A large one is stored as four arrays: ``NAME__sub``, every
``NAME__stride``-th element in C order, ``NAME__shape``, and ``NAME__stats`` = mean, population standard deviation,
largest absolute value and sum over the whole tensor in float64.

Files lie in ``tests/golden``; the environment variable ``GLIP_GOLDEN`` names a folder that is searched first.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

GOLDEN_DIR = Path(__file__).resolve().parent / "golden"


class Tolerance(NamedTuple):
    """How far a value may be from the recorded one: |a - b| <= atol + rtol * |b|, and rms(a - b) <= rms if given."""

    atol: float
    rtol: float = 0.0
    rms: float | None = None


# The one table of tolerances: float32 on a CPU against the recording, by the kind of quantity.
TOLERANCES = {
    "exact": Tolerance(0.0),
    "transform": Tolerance(5e-5),
    "swin": Tolerance(5e-5),
    "language": Tolerance(5e-5),
    "fpn": Tolerance(5e-5),
    "first_dyconv": Tolerance(2e-4),
    "tower": Tolerance(5e-4, rms=5e-5),
    "dot_logits": Tolerance(1e-3, rms=1e-4),
    "head": Tolerance(5e-4),  # box regression, centerness
    "boxes": Tolerance(0.02),  # pixels
    "scores": Tolerance(1e-4),
    "ops": Tolerance(1e-5, rtol=1e-5),
    "ops_gradient": Tolerance(1e-4, rtol=1e-4),
    "loss": Tolerance(0.0, rtol=1e-4),
    "gradient_norm": Tolerance(1e-4, rtol=1e-3),
    "gradient_norm_attention_and_offset_bias": Tolerance(1e-4, rtol=1e-2),
}


class Measurement(NamedTuple):
    """One comparison with a recorded array: the largest absolute difference beside what was allowed."""

    name: str
    difference: float
    atol: float
    rtol: float


MEASUREMENTS: list[Measurement] = []  # of the running test; conftest.py empties it, and --parity-table writes them out


def golden_path(name: str) -> Path:
    """Path of a golden file, such as ``ops.npz``; skips the calling test when neither folder has it."""
    folders = [Path(os.environ["GLIP_GOLDEN"])] if os.environ.get("GLIP_GOLDEN") else []
    folders.append(GOLDEN_DIR)
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    pytest.skip(f"golden file {name} is in none of {', '.join(map(str, folders))} (set GLIP_GOLDEN to its folder)")


def load_golden(name: str) -> np.lib.npyio.NpzFile:
    """Opens a golden ``.npz`` file; arrays are read when they are indexed."""
    return np.load(golden_path(name), allow_pickle=False)


def golden_tensor(npz: np.lib.npyio.NpzFile, name: str) -> Tensor:
    """An array that is stored whole, as a tensor of the same dtype."""
    return torch.from_numpy(np.array(npz[name]))


def is_sampled(npz: np.lib.npyio.NpzFile, name: str) -> bool:
    """Whether `name` is stored as a sample with statistics instead of whole; KeyError when it is not stored at all."""
    if name in npz.files:
        return False
    if f"{name}__sub" in npz.files:
        return True
    raise KeyError(f"{name} is not in the golden file")


def assert_golden(
    actual: Tensor,
    npz: np.lib.npyio.NpzFile,
    name: str,
    atol: float | Tolerance,
    rtol: float | None = None,
    *,
    rms: float | None = None,
) -> float:
    """Compares a tensor with the array `name` of a golden file, stored whole or as a sample.

    Args:
        actual: tensor on any device, of the recorded shape.
        npz: an open golden file.
        name: of the array, without the suffixes of the sampled form.
        atol: absolute tolerance, or a row of TOLERANCES, which then also gives the two others.
        rtol: relative tolerance.
        rms: bound on the root mean square of the difference.

    Returns: the largest absolute difference, to be quoted in tables.
    Raises: AssertionError that names the array, the largest difference and where it is.
    """
    tolerance = atol if isinstance(atol, Tolerance) else Tolerance(atol, rtol or 0.0, rms)
    values = actual.detach().cpu().to(torch.float64).numpy()
    sampled = is_sampled(npz, name)
    shape = tuple(int(n) for n in npz[f"{name}__shape"]) if sampled else npz[name].shape
    assert values.shape == shape, f"{name}: shape {values.shape}, recorded {shape}"

    stride = int(npz[f"{name}__stride"]) if sampled else 1
    expected = np.asarray(npz[f"{name}__sub"] if sampled else npz[name], dtype=np.float64).reshape(-1)
    difference = np.abs(values.reshape(-1)[::stride] - expected)
    if difference.size == 0:
        return 0.0
    # Equal infinities differ by nan; a nan on one side only must fail.
    difference[values.reshape(-1)[::stride] == expected] = 0.0
    MEASUREMENTS.append(Measurement(name, float(difference.max()), tolerance.atol, tolerance.rtol))
    excess = difference - (tolerance.atol + tolerance.rtol * np.abs(expected))
    worst = int(np.argmax(np.where(np.isnan(excess), np.inf, excess)))
    if not excess[worst] <= 0:
        where = np.unravel_index(worst * stride, shape)
        raise AssertionError(
            f"{name}: differs by {difference[worst]:.3g} at {tuple(map(int, where))} "
            f"(got {values[where]:.8g}, recorded {expected[worst]:.8g}, "
            f"atol {tolerance.atol:.3g}, rtol {tolerance.rtol:.3g}, "
            f"{int((~(excess <= 0)).sum())} of {difference.size} outside)"
        )
    measured_rms = float(np.sqrt(np.mean(difference**2)))
    if tolerance.rms is not None and not measured_rms <= tolerance.rms:
        raise AssertionError(f"{name}: rms difference {measured_rms:.3g}, allowed {tolerance.rms:.3g}")
    if sampled:
        _assert_statistics(values, npz[f"{name}__stats"], name, tolerance)
    return float(difference.max())


def _assert_statistics(values: np.ndarray, recorded: np.ndarray, name: str, tolerance: Tolerance) -> None:
    """Statistics see the elements that the sample skips: none may move by more than an element may."""
    mean, deviation, largest, _ = (float(x) for x in recorded)
    allowed = tolerance.atol + tolerance.rtol * largest
    measured = {"mean": values.mean(), "standard deviation": values.std(), "largest": np.abs(values).max()}
    for (what, got), expected in zip(measured.items(), (mean, deviation, largest), strict=True):
        assert abs(got - expected) <= allowed, (
            f"{name}: {what} {got:.8g}, recorded {expected:.8g} (allowed {allowed:.3g})"
        )
