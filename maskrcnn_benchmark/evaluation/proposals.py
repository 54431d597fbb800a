"""Recall of boxes without classes, as of region proposals."""

import logging
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskrcnn_benchmark.evaluation.average_precision import AREA_RANGES, IOU_THRESHOLDS, NOTHING_TO_FIND, is_outside
from maskrcnn_benchmark.evaluation.base import Evaluator, scores_and_labels
from maskrcnn_benchmark.evaluation.coco import PROPOSAL_LIMITS, COCOResults
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.boxlist_ops import boxlist_iou
from maskrcnn_benchmark.utils.complete_files import atomic_path

logger = logging.getLogger(__name__)


class FoundTruth(NamedTuple):
    """Overlaps (limits, areas, G) of the things of an image with their boxes; NaN for things outside the area range."""

    overlaps: np.ndarray


class ProposalRecall(Evaluator):
    """Average recall over overlaps 0.5 to 0.95, for several numbers of boxes per image and sizes of things."""

    def update(self, image_id: int | str, prediction: BoxList, truth: BoxList, areas: Tensor) -> None:
        """Takes in one image.

        Args:
            prediction: boxes with `objectness` or `scores`, scaled to the size of `truth`.
            truth: the things without groups. areas: (G,) of their outlines.
        """
        is_proposal = prediction.has_field("objectness")
        scores = prediction.get_field("objectness") if is_proposal else scores_and_labels(prediction)[0]
        prediction = prediction.resize(truth.size)[scores.argsort(descending=True, stable=True)]
        overlaps = boxlist_iou(prediction, truth).cpu().numpy().astype(np.float64)
        outside = is_outside(areas.cpu().numpy().astype(np.float64))  # (G, areas)
        found = np.full((len(PROPOSAL_LIMITS), len(AREA_RANGES), len(truth)), np.nan)
        for row, limit in enumerate(PROPOSAL_LIMITS):
            for column in range(len(AREA_RANGES)):
                inside = np.flatnonzero(~outside[:, column])
                found[row, column, inside] = best_pairs(overlaps[:limit, inside])
        self._items.setdefault(image_id, FoundTruth(found))

    def summarize(self) -> dict[str, float]:
        """AR@100, ARs@100, ARm@100, ARl@100, AR@1000, ... in 0..1; -1 where there is nothing to find."""
        figures = {}
        for row, limit in enumerate(PROPOSAL_LIMITS):
            for column, area in enumerate(AREA_RANGES):
                found = [image.overlaps[row, column] for image in self._items.values()]
                overlaps = np.concatenate([np.zeros(0), *found])
                overlaps = overlaps[~np.isnan(overlaps)]
                recall = (overlaps[:, None] >= IOU_THRESHOLDS).mean() if len(overlaps) else NOTHING_TO_FIND
                figures[f"AR{'' if area == 'all' else area}@{limit}"] = float(recall)
        return figures

    def results(self) -> COCOResults:
        """The figures in the historical form."""
        results = COCOResults("box_proposal")
        results.results["box_proposal"].update(self.summarize())
        return results

    @staticmethod
    def write(folder: str | os.PathLike[str], results: COCOResults) -> None:
        """Writes box_proposals.pth."""
        with atomic_path(Path(folder) / "box_proposals.pth") as part:
            torch.save(results, part)


def best_pairs(overlaps: np.ndarray) -> np.ndarray:
    """(G,) overlaps of the things (columns) with their boxes (rows) when the best pair of all is taken first, and again
    among those left; 0 for a thing without a box.
    """
    overlaps = overlaps.copy()
    found = np.zeros(overlaps.shape[1])
    for _ in range(min(overlaps.shape)):
        box, thing = np.unravel_index(int(overlaps.argmax()), overlaps.shape)
        found[thing] = overlaps[box, thing]
        overlaps[box, :] = overlaps[:, thing] = -1.0
    return found
