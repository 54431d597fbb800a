"""Recall of the phrases of Flickr30k Entities, in the ANY-BOX and the MERGED-BOX protocol."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prettytable import PrettyTable

from maskrcnn_benchmark.evaluation.base import plain_identifier
from maskrcnn_benchmark.evaluation.flickr_entities import Flickr30kEntities
from maskrcnn_benchmark.evaluation.phrase_recall import ALL_TYPES, TOP_K, UPPER_BOUND, PhraseRecall, figure_name
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.complete_files import write_complete

logger = logging.getLogger(__name__)

NAMES_SHOWN = 5


class SentenceMismatch(ValueError, RuntimeError):
    """Predictions that do not fit the sentences; historically a RuntimeError."""


class FlickrEvaluator:
    """Recall@k over the phrases of Flickr30k Entities; the interface is the historical one.

    Args:
        flickr_path: folder of Flickr30k Entities.
        subset: "val" or "test".
        top_k: numbers of boxes per phrase that may be looked at, -1 for all of them.
        iou_thresh: overlap that makes a box right.
        merge_boxes: MERGED-BOX, where the one right box of a phrase is around all of its things; else ANY-BOX.
        allow_missing: evaluate the sentences that have predictions, instead of refusing when some have none.
    Attributes:
        results: the figures, after `summarize`.
    """

    def __init__(
        self,
        flickr_path: str | os.PathLike[str],
        subset: str = "test",
        top_k: Sequence[int] = (*TOP_K, UPPER_BOUND),
        iou_thresh: float = 0.5,
        merge_boxes: bool = False,
        allow_missing: bool = False,
    ):
        if subset not in ("train", "val", "test"):
            raise ValueError(f"subset={subset!r}: give train, val or test")
        self.entities = Flickr30kEntities(flickr_path, subset)
        self.recall = PhraseRecall(top_k, iou_thresh, merge_boxes)
        self.allow_missing = allow_missing
        self.results: dict[str, float] = {}
        self._may_summarize = True

    def reset(self) -> None:
        """Forgets everything collected."""
        self.recall.reset()

    def update(self, predictions: Iterable[Mapping[str, Any]]) -> None:
        """Takes in sentences: `image_id`, `sentence_id` (its number within the image), and `boxes`: for every phrase
        with a box, in the order of the sentence, a list of boxes (xyxy pixels), best first.

        Sentences that are not evaluated are ignored, and with a warning those that come again.
        Raises: SentenceMismatch if the number of phrases differs.
        """
        for prediction in predictions:
            key = f"{plain_identifier(prediction['image_id'])}_{plain_identifier(prediction['sentence_id'])}"
            if key not in self.entities.phrases:
                continue
            if key in self.recall:
                logger.warning("sentence %s comes again and is ignored", key)
                continue
            phrases = self.entities.phrases[key]
            boxes = prediction["boxes"]
            if len(boxes) != len(phrases):
                raise SentenceMismatch(
                    f"sentence {key}: boxes for {len(boxes)} phrases, but it has {len(phrases)} with a box: "
                    f"{', '.join(phrase.text for phrase in phrases)}"
                )
            self.recall.update(
                key,
                [_box_tensor(found) for found in boxes],
                [torch.tensor(phrase.boxes, dtype=torch.float64) for phrase in phrases],
                [phrase.types for phrase in phrases],
            )

    def synchronize_between_processes(self) -> None:
        """Brings what all processes collected to the first one."""
        self._may_summarize = self.gather()

    def gather(self) -> bool:
        """Joins what all processes collected; returns whether this process has it all and may summarize."""
        return self.recall.gather()

    def accumulate(self) -> None:
        """Does nothing; `summarize` computes everything."""

    def summarize(self) -> dict[str, float] | None:
        """`Recall@k_TYPE` and `Upper_bound_TYPE` in 0..1, for "all" and every type; None off the first process.

        Raises: SentenceMismatch when sentences have no prediction, unless `allow_missing`.
        """
        if not (self._may_summarize and comm.is_main_process()):
            return None
        missing = [key for key in self.entities.phrases if key not in self.recall]
        if missing:
            text = (
                f"{len(missing)} of {len(self.entities.phrases)} sentences have no prediction: "
                f"{', '.join(missing[:NAMES_SHOWN])}{' ...' if len(missing) > NAMES_SHOWN else ''}"
            )
            if not self.allow_missing:
                raise SentenceMismatch(f"{text}; allow_missing=True evaluates the others")
            logger.warning("%s", text)
        self.results = self.recall.summarize()
        logger.info("\n%s", recall_table(self.results, self.recall.top_k))
        return self.results

    def write(self, folder: str | os.PathLike[str], metrics: Mapping[str, float]) -> None:
        """Writes bbox.csv."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        rows = "".join(f"{name}, {value} \n" for name, value in metrics.items())
        write_complete(folder / "bbox.csv", f"metric, avg \n{rows}")


def recall_table(metrics: Mapping[str, float], top_k: Sequence[int]) -> PrettyTable:
    """A row for every k, a column for every type."""
    begin = f"{figure_name(top_k[0])}_" if top_k else ""
    types = [name.removeprefix(begin) for name in metrics if name.startswith(begin)]
    table = PrettyTable(["Recall@k", *(f"{name} types" if name == ALL_TYPES else name for name in types)])
    for k in top_k:
        table.add_row([figure_name(k), *(f"{metrics[f'{figure_name(k)}_{name}']:.4f}" for name in types)])
    return table


def _box_tensor(found: Any) -> torch.Tensor:
    """Boxes (N, 4) of a tensor, an array, or a sequence of boxes, each of them a tensor, an array or four numbers."""
    rows = found if isinstance(found, torch.Tensor | np.ndarray) else [np.asarray(row, np.float64) for row in found]
    return torch.as_tensor(np.asarray(rows, np.float64)).reshape(-1, 4)
