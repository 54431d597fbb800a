"""Precision over recall for every class, threshold and area range, out of matched detections."""

from typing import NamedTuple

import numpy as np

from maskrcnn_benchmark.evaluation.greedy_matching import Matches

RECALLS = np.linspace(0.0, 1.0, 101)
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREA_RANGES = {"all": (0.0, 1e5**2), "s": (0.0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e5**2)}  # square pixels
NOTHING_TO_FIND = -1.0


class PrecisionRecall(NamedTuple):
    """Curves; -1 where there is no ground truth.

    Attributes:
        precision: (T, 101, K, A) the best precision at this recall or beyond. recall: (T, K, A) of all detections.
    """

    precision: np.ndarray
    recall: np.ndarray


def is_outside(areas: np.ndarray) -> np.ndarray:
    """(N,) square pixels -> (N, A) whether outside each of AREA_RANGES, whose ends belong to them."""
    low, high = np.array(list(AREA_RANGES.values())).T
    return (areas[:, None] < low) | (areas[:, None] > high)


def precision_recall(
    categories: np.ndarray, scores: np.ndarray, matches: Matches, is_ignored: np.ndarray, num_truths: np.ndarray
) -> PrecisionRecall:
    """Curves of all classes.

    Args:
        categories, scores: (N,) class number and score of the detections; of equal scores in a class the earlier ones
            come first.
        matches: of these detections. Ignored matches count neither as right nor as wrong.
        is_ignored: (N, A) whether a detection that matches nothing counts as nothing, instead of wrong.
        num_truths: (K, A) ground truth that is not ignored.
    """
    order = np.lexsort((-scores, categories))
    matches = matches.take(order, len(order))
    categories, is_ignored = categories[order], is_ignored[order]
    num_categories, num_areas = num_truths.shape
    num_thresholds = matches.is_matched.shape[1]
    precision = np.full((num_thresholds, len(RECALLS), num_categories, num_areas), NOTHING_TO_FIND)
    recall = np.full((num_thresholds, num_categories, num_areas), NOTHING_TO_FIND)
    first_detection = np.searchsorted(categories, np.arange(num_categories))
    first_match = np.searchsorted(categories[matches.rows], np.arange(num_categories + 1))
    needed = {int(count): _needed(int(count)) for count in np.unique(num_truths) if count}
    for area in range(num_areas):
        is_wrong = ~is_ignored[:, area]
        wrong = np.concatenate([[0], np.cumsum(is_wrong)])  # up to before detection n, as if nothing matched
        for threshold in range(num_thresholds):
            is_matched = matches.is_matched[:, threshold, area]
            is_right = is_matched & ~matches.is_ignored[:, threshold, area]
            spared = np.concatenate([[0], np.cumsum(is_matched & is_wrong[matches.rows])])
            right = np.concatenate([[0], np.cumsum(is_right)])
            wrong_here = wrong[matches.rows + 1] - spared[1:]  # (R,) up to and with the detection
            for category in np.flatnonzero(num_truths[:, area]):
                count = int(num_truths[category, area])
                begin, end = first_match[category], first_match[category + 1]
                hits = begin + np.flatnonzero(is_right[begin:end])
                recall[threshold, category, area] = len(hits) / count
                if not len(hits):
                    precision[threshold, :, category, area] = 0.0
                    continue
                true = right[hits + 1] - right[begin]
                false = wrong_here[hits] - (wrong[first_detection[category]] - spared[begin])
                values = true / (false + true + np.spacing(1))
                best = np.append(np.maximum.accumulate(values[::-1])[::-1], 0.0)
                precision[threshold, :, category, area] = best[np.minimum(needed[count], len(hits))]
    return PrecisionRecall(precision, recall)


def _needed(count: int) -> np.ndarray:
    """(101,) position of the right detection that reaches each of RECALLS, when there are `count` things to find."""
    return np.maximum(np.searchsorted(np.arange(count + 1) / count, RECALLS, "left") - 1, 0)


def mean_of_valid(values: np.ndarray) -> float:
    """Mean of the values that stand for something; -1 when none does."""
    valid = values[values > NOTHING_TO_FIND]
    return float(valid.mean()) if valid.size else NOTHING_TO_FIND
