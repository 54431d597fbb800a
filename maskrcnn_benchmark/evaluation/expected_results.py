"""Whether figures are those that TEST.EXPECTED_RESULTS asks for."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from maskrcnn_benchmark.evaluation.coco import COCOResults

logger = logging.getLogger(__name__)

Expected = tuple[str, str, tuple[float, float]]
"""Kind of result ("bbox"), name of the figure, and its mean and standard deviation."""


def read_expected_results(entries: Sequence[Any]) -> list[Expected]:
    """TEST.EXPECTED_RESULTS as tuples. Raises: ValueError for an entry that is not (kind, name, (mean, deviation))."""
    expected: list[Expected] = []
    for entry in entries:
        try:
            kind, metric, (mean, deviation) = entry
            expected.append((str(kind), str(metric), (float(mean), float(deviation))))
        except (TypeError, ValueError):
            raise ValueError(
                f"TEST.EXPECTED_RESULTS has the entry {entry!r}; give (kind, figure, (mean, deviation)), "
                'such as ("bbox", "AP", (0.466, 0.001))'
            ) from None
    return expected


def check_expected_results(
    figures: COCOResults | Mapping[str, Mapping[str, float]], expected: Sequence[Expected], sigma_tolerance: float = 4
) -> bool:
    """Logs PASS or FAIL for every expected figure; returns whether all are nearer than `sigma_tolerance` deviations.

    Args:
        figures: by kind of result and name.
    Raises: ValueError for an entry that is not (kind, name, (mean, deviation)), or names an unknown figure.
    """
    figures = figures.results if isinstance(figures, COCOResults) else figures
    is_near = True
    for kind, metric, (mean, deviation) in read_expected_results(expected):
        if metric not in figures.get(kind, {}):
            known = ", ".join(f"{name} {figure}" for name, values in figures.items() for figure in values)
            raise ValueError(f"TEST.EXPECTED_RESULTS names the figure {kind} {metric}; known are {known}")
        actual = figures[kind][metric]
        low, high = mean - sigma_tolerance * deviation, mean + sigma_tolerance * deviation
        passes = low < actual < high
        is_near = is_near and passes
        log = logger.info if passes else logger.error
        verdict = "PASS" if passes else "FAIL"
        log("%s: %s > %s, %.4f, expected %.4f +- %.4f", verdict, kind, metric, actual, mean, deviation)
    return is_near
