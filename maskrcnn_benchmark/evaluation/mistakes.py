"""What a detector gets wrong: phrases taken for each other, and the images with the most mistakes."""

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torchvision.ops import box_iou
from tqdm import tqdm

IOU_THRESHOLD = 0.5
NOTHING = "(nothing)"
DEFAULT_THRESHOLD = 0.5


class JudgedImage(NamedTuple):
    """An image with what it shows and what was found in it.

    Attributes:
        title: says which image it is. path: its file.
        truth_boxes: (G, 4) xyxy pixels; truth_names: G texts.
        boxes: (N, 4), best score first; scores: (N,); names: N texts.
    """

    title: str
    path: Path
    truth_boxes: np.ndarray
    truth_names: Sequence[str]
    boxes: np.ndarray
    scores: np.ndarray
    names: Sequence[str]

    def confident(self, threshold: float) -> "JudgedImage":
        """The same with the detections from `threshold` on."""
        count = int((self.scores >= threshold).sum())
        return self._replace(boxes=self.boxes[:count], scores=self.scores[:count], names=self.names[:count])


class Verdict(NamedTuple):
    """is_right: (N,) whether a detection finds a thing of its name that no better one found; is_found: (G,)."""

    is_right: np.ndarray
    is_found: np.ndarray

    @property
    def errors(self) -> int:
        """Wrong detections and things that were not found."""
        return int((~self.is_right).sum() + (~self.is_found).sum())

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 where there is nothing and nothing was found."""
        total = len(self.is_right) + len(self.is_found)
        return 2 * float(self.is_right.sum()) / total if total else 1.0


def pairwise_overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union (N, M) of xyxy boxes (N, 4) and (M, 4), whose ends are edges; 0 for two without area."""
    return box_iou(torch.from_numpy(boxes), torch.from_numpy(others)).nan_to_num().numpy()


def judge(image: JudgedImage) -> Verdict:
    """Which detections are right, at an overlap of 0.5; the best score chooses first."""
    same = np.array(image.names, dtype=object)[:, None] == np.array(image.truth_names, dtype=object)[None]
    pairs = _assign(np.where(same, pairwise_overlaps(image.boxes, image.truth_boxes), 0.0))
    verdict = Verdict(np.zeros(len(image.boxes), dtype=bool), np.zeros(len(image.truth_boxes), dtype=bool))
    for detection, truth in pairs:
        verdict.is_right[detection] = verdict.is_found[truth] = True
    return verdict


def _assign(overlaps: np.ndarray) -> list[tuple[int, int]]:
    """(row, column) where each row in order takes the free column that it overlaps most, from 0.5 on."""
    free = np.ones(overlaps.shape[1], dtype=bool)
    pairs = []
    for row in np.flatnonzero((overlaps >= IOU_THRESHOLD).any(1)):
        candidates = np.where(free, overlaps[row], 0.0)
        column = int(candidates.argmax())
        if candidates[column] >= IOU_THRESHOLD:
            free[column] = False
            pairs.append((int(row), column))
    return pairs


def confusions(image: JudgedImage, verdict: Verdict) -> Counter[tuple[str, str]]:
    """How often (name of the thing, name it was given); NOTHING for a thing not found, or found where none is."""
    counts = Counter((name, name) for name, right in zip(image.names, verdict.is_right, strict=True) if right)
    wrong = np.flatnonzero(~verdict.is_right).tolist()
    missed = np.flatnonzero(~verdict.is_found).tolist()
    pairs = _assign(pairwise_overlaps(image.boxes[wrong], image.truth_boxes[missed]))
    counts.update((image.truth_names[missed[truth]], image.names[wrong[row]]) for row, truth in pairs)
    named, explained = {row for row, _ in pairs}, {truth for _, truth in pairs}
    counts.update((NOTHING, image.names[row]) for n, row in enumerate(wrong) if n not in named)
    counts.update((image.truth_names[row], NOTHING) for n, row in enumerate(missed) if n not in explained)
    return counts


class Mistakes(NamedTuple):
    """What a set of images shows about a detector.

    Attributes:
        threshold: score from which on detections count, the one with the best F1 over all images; f1: that.
        confusions: (name of the thing, name it was given) -> times.
        worst: the images with the lowest F1, worst first, with their confident detections.
    """

    threshold: float
    f1: float
    confusions: Counter[tuple[str, str]]
    worst: list[tuple[JudgedImage, Verdict]]


def find_mistakes(images: Iterable[JudgedImage], num_worst: int = 24) -> Mistakes:
    """Looks through the images twice, first for the threshold."""
    scores, is_right, num_truths = [np.zeros(0)], [np.zeros(0, dtype=bool)], 0
    for image in tqdm(images, desc="Report, scores", leave=False, disable=None):
        scores.append(image.scores)
        is_right.append(judge(image).is_right)
        num_truths += len(image.truth_boxes)
    threshold, f1 = best_threshold(np.concatenate(scores), np.concatenate(is_right), num_truths)
    counts: Counter[tuple[str, str]] = Counter()
    worst: list[tuple[tuple[float, int, int], JudgedImage, Verdict]] = []
    for number, image in enumerate(tqdm(images, desc="Report, mistakes", leave=False, disable=None)):
        image = image.confident(threshold)
        verdict = judge(image)
        counts += confusions(image, verdict)
        if verdict.errors:
            entry = ((-verdict.f1, verdict.errors, -number), image, verdict)
            (heapq.heappushpop if len(worst) >= num_worst else heapq.heappush)(worst, entry)
    return Mistakes(threshold, f1, counts, [entry[1:] for entry in sorted(worst, reverse=True)])


def best_threshold(scores: np.ndarray, is_right: np.ndarray, num_truths: int) -> tuple[float, float]:
    """(score, F1) of the cut through all detections with the best F1; (0.5, 0) where nothing is right."""
    order = np.argsort(-scores, kind="stable")
    f1 = 2 * np.cumsum(is_right[order]) / (np.arange(1, len(order) + 1) + num_truths)
    if not len(f1) or f1.max() == 0:
        return DEFAULT_THRESHOLD, 0.0
    best = int(f1.argmax())
    return float(scores[order[best]]), float(f1[best])


def confused_names(counts: Counter[tuple[str, str]], limit: int) -> list[str]:
    """The names with the most mistakes between two names, then those with the most at all; sorted by mistakes."""
    between: Counter[str] = Counter()
    for (truth, given), count in counts.items():
        if truth != given:
            weight = count if NOTHING in (truth, given) else 1000 * count
            for name in {truth, given} - {NOTHING}:
                between[name] += weight
    return [name for name, _ in between.most_common(limit)]
