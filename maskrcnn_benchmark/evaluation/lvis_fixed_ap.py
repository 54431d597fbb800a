"""The historical interface of the LVIS evaluation, on top of `LvisEvaluator`."""

import hashlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from maskrcnn_benchmark.evaluation.base import plain_identifier
from maskrcnn_benchmark.evaluation.lvis import MAX_PER_CLASS, LvisEvaluator, text_lines
from maskrcnn_benchmark.evaluation.lvis_annotations import LVIS
from maskrcnn_benchmark.utils import comm

logger = logging.getLogger(__name__)

Predictions = Mapping[int, Mapping[str, Any]] | Iterable[tuple[int, Mapping[str, Any]]]


class LvisEvaluatorFixedAP:
    """Collects predictions by image, and tells the LVIS figures as lines of text.

    Args:
        gt: the annotations.
        topk: detections per class in the whole dataset that fixed AP keeps.
        fixed_ap: False for the standard AP with at most 300 detections per image.
    Attributes:
        metrics: the figures by name, after `summarize`.
    """

    def __init__(self, gt: LVIS, topk: int = MAX_PER_CLASS, fixed_ap: bool = True):
        self.evaluator = LvisEvaluator(gt, is_fixed=fixed_ap, max_per_class=topk)
        self.metrics: dict[str, float] = {}
        self._entries: set[bytes] = set()
        self._may_summarize = True

    def update(self, predictions: Predictions) -> None:
        """Takes in (image id, {`boxes` (N, 4) xyxy pixels, `scores` (N,), `labels` (N,)}), as a mapping or as pairs.

        An image may come several times, once for each part of a long prompt; what equals an earlier entry is ignored,
        as samplers of several processes pad.
        """
        rows = []
        for entry in _detections(predictions):
            digest = hashlib.sha256(b"".join(column.tobytes() for column in entry)).digest()
            if digest not in self._entries:
                rows.append(entry)
            self._entries.add(digest)
        if rows:
            columns = (np.concatenate(column) for column in zip(*rows, strict=True))
            self.evaluator.update_columns(*columns, adds_to_images=True)

    def prepare(self, predictions: Predictions) -> list[dict[str, Any]]:
        """The predictions as a list of results: `image_id`, `category_id`, `bbox` as x, y, width, height, `score`."""
        return [
            {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
            for part in _detections(predictions)
            for image_id, category_id, box, score in zip(*(column.tolist() for column in part), strict=True)
        ]

    def synchronize_between_processes(self) -> None:
        """Brings the predictions of all processes to the first one."""
        self._may_summarize = self.evaluator.gather()

    def accumulate(self) -> None:
        """Does nothing; `summarize` computes everything."""

    def summarize(self) -> list[str] | None:
        """One line for every figure, its value at the end; None on processes other than the first."""
        if not (self._may_summarize and comm.is_main_process()):
            return None
        self.metrics = self.evaluator.summarize()
        lines = text_lines(self.metrics)
        logger.info("\n%s", "\n".join(lines))
        return lines


def _detections(predictions: Predictions) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Columns (image id, category, box xywh, score) of every entry."""
    entries = predictions.items() if isinstance(predictions, Mapping) else predictions
    columns = []
    for image_id, found in entries:
        boxes = torch.as_tensor(found["boxes"]).detach().cpu().reshape(-1, 4)
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)
        image_ids = np.full(len(boxes), plain_identifier(image_id))
        columns.append((image_ids, _array(found["labels"]), boxes.numpy(), _array(found["scores"])))
    return columns


def _array(values: Any) -> np.ndarray:
    return torch.as_tensor(values).detach().cpu().reshape(-1).numpy()
