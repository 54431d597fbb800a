"""Greedy assignment of detections to ground truth, for all thresholds, area ranges and images side by side.

Detections of one image and class choose in the order of their scores; different images and classes do not touch each
other. So the n-th detections of all of them choose at once, and only detections near some ground truth take part.
"""

from typing import NamedTuple

import numpy as np

MAX_PAIRS = 1 << 21  # box pairs whose overlaps are computed at a time


class Matches(NamedTuple):
    """The detections that overlap ground truth enough for some threshold; all others match nothing.

    Attributes:
        rows: (R,) their positions among the detections, ascending.
        is_matched: (R, T, A) for threshold T and area range A; is_ignored: (R, T, A) the match is ignored ground truth.
    """

    rows: np.ndarray
    is_matched: np.ndarray
    is_ignored: np.ndarray

    def take(self, rows: np.ndarray, count: int) -> "Matches":
        """The matches of the detections at the positions `rows` among `count`, numbered in this order."""
        position = np.full(count, -1)
        position[rows] = np.arange(len(rows))
        taken = position[self.rows]
        order = np.argsort(taken, kind="stable")
        order = order[np.count_nonzero(taken < 0) :]
        return Matches(taken[order], self.is_matched[order], self.is_ignored[order])


def box_overlaps(boxes: np.ndarray, others: np.ndarray, is_crowd: np.ndarray | None = None) -> np.ndarray:
    """Intersection over union (N,) of x, y, width, height boxes (N, 4) with (N, 4), row by row; where `others` are a
    crowd (N,), over the area of the box. Rounded as in pycocotools, operation by operation.
    """
    width, height = (
        np.minimum(boxes[:, axis + 2] + boxes[:, axis], others[:, axis + 2] + others[:, axis])
        - np.maximum(boxes[:, axis], others[:, axis])
        for axis in (0, 1)
    )
    intersection = np.where((width > 0) & (height > 0), width * height, 0.0)
    areas = boxes[:, 2] * boxes[:, 3]
    union = areas + others[:, 2] * others[:, 3] - intersection
    if is_crowd is not None:
        union = np.where(is_crowd, areas, union)
    with np.errstate(divide="ignore"):  # far from the origin the rounded union may come out as 0
        return np.divide(intersection, union, out=np.zeros_like(union), where=intersection > 0)


def match_greedily(
    keys: np.ndarray,
    boxes: np.ndarray,
    truth_keys: np.ndarray,
    truth_boxes: np.ndarray,
    truth_ignored: np.ndarray,
    thresholds: np.ndarray,
    *,
    truth_is_crowd: np.ndarray | None = None,
    truth_is_unseen: np.ndarray | None = None,
) -> Matches:
    """Matches every detection with the free ground truth that it overlaps most; ignored ground truth only as a last
    resort, and of equal overlaps the later ground truth.

    Args:
        keys: (N,) image and class of the detections, those of one key together and the best score first.
        boxes: (N, 4) x, y, width, height.
        truth_keys: (G,) ascending; truth_boxes: (G, 4).
        truth_ignored: (G, A) for every area range.
        thresholds: (T,) least overlaps, ascending.
        truth_is_crowd: (G,) many things in one box, of which any number of detections may be a part; None for none.
        truth_is_unseen: (G,) ground truth whose detections count as unmatched unless it is ignored; None for none.
    """
    detections, truths, overlaps = _near_pairs(keys, boxes, truth_keys, truth_boxes, thresholds[0], truth_is_crowd)
    rows, row_of_pair = np.unique(detections, return_inverse=True)
    turns = position_in_group(keys[rows])
    # Pairs in the order of the turns; the overlap as a number that differs for every pair, so that the best is unique.
    order = np.argsort(turns[row_of_pair], kind="stable")
    row_of_pair, truths, overlaps = row_of_pair[order], truths[order], overlaps[order]
    count = len(order)
    pair_of_rank = np.argsort(overlaps, kind="stable")
    rank = np.empty(count, dtype=np.int64)
    rank[pair_of_rank] = np.arange(1, count + 1)
    shape = (len(thresholds), truth_ignored.shape[1])
    is_taken = np.zeros((len(truth_keys), *shape), dtype=bool)
    is_matched = np.zeros((len(rows), *shape), dtype=bool)
    is_ignored = np.zeros((len(rows), *shape), dtype=bool)
    ends = np.searchsorted(turns[row_of_pair], np.arange(1, turns.max(initial=-1) + 2))
    begin = 0
    for end in ends:
        pairs = slice(begin, end)
        begin = end
        truth, row = truths[pairs], row_of_pair[pairs]
        is_possible = (overlaps[pairs, None] >= thresholds)[:, :, None] & ~is_taken[truth]
        preference = rank[pairs, None] + np.where(truth_ignored[truth], 0, count)  # (pairs, A)
        preference = np.where(is_possible, preference[:, None, :], 0)  # (pairs, T, A)
        starts = np.flatnonzero(np.diff(row, prepend=-1))
        best = np.maximum.reduceat(preference, starts, axis=0)
        chooser, threshold, area = np.nonzero(best)
        chosen = truths[pair_of_rank[(best[chooser, threshold, area] - 1) % count]]
        is_taken[chosen, threshold, area] = True if truth_is_crowd is None else ~truth_is_crowd[chosen]
        ignored = (best > 0) & (best <= count)
        is_ignored[row[starts]] = ignored
        matched = best > 0
        if truth_is_unseen is not None:
            matched[chooser, threshold, area] = ~truth_is_unseen[chosen] | ignored[chooser, threshold, area]
        is_matched[row[starts]] = matched
    return Matches(rows, is_matched, is_ignored)


def _near_pairs(
    keys: np.ndarray,
    boxes: np.ndarray,
    truth_keys: np.ndarray,
    truth_boxes: np.ndarray,
    threshold: float,
    truth_is_crowd: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(detection, ground truth, overlap) of all pairs of one key that overlap at least `threshold`, in this order."""
    first = np.searchsorted(truth_keys, keys, "left")
    counts = np.searchsorted(truth_keys, keys, "right") - first
    ends = np.cumsum(counts)
    found = []
    begin = 0
    while begin < len(keys):
        done = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + MAX_PAIRS, "right")))
        number = counts[begin:end]
        detection = np.repeat(np.arange(begin, end), number)
        truth = np.arange(len(detection)) - np.repeat(ends[begin:end] - number - done, number) + first[detection]
        is_crowd = None if truth_is_crowd is None else truth_is_crowd[truth]
        overlap = box_overlaps(boxes[detection], truth_boxes[truth], is_crowd)
        near = overlap >= threshold
        found.append((detection[near], truth[near], overlap[near]))
        begin = end
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    detections, truths, overlaps = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return detections, truths, overlaps


def position_in_group(keys: np.ndarray) -> np.ndarray:
    """(N,) how many equal keys stand before each one; equal keys stand together."""
    positions = np.arange(len(keys))
    is_first = np.diff(keys, prepend=keys[:1] - 1) != 0
    return positions - np.maximum.accumulate(np.where(is_first, positions, 0))
