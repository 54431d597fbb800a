"""Recall of phrase grounding: is one of the best k boxes of a phrase on one of its things?"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from maskrcnn_benchmark.evaluation.base import Evaluator

TOP_K = (1, 5, 10)
ALL_TYPES = "all"
UPPER_BOUND = -1


def union_box(boxes: Tensor) -> Tensor:
    """The box (1, 4) around all boxes (N, 4)."""
    return torch.cat([boxes[:, :2].min(0).values, boxes[:, 2:].max(0).values])[None]


class PhraseRecall(Evaluator):
    """Recall@k over phrases.

    Args:
        top_k: numbers of boxes per phrase that may be looked at, -1 for all of them.
        iou_threshold: overlap that makes a box right.
        merge_boxes: a phrase with several things has one right box, the one around them all (the MERGED-BOX protocol);
            otherwise each of its things is right (ANY-BOX).
    """

    def __init__(
        self, top_k: Sequence[int] = (*TOP_K, UPPER_BOUND), iou_threshold: float = 0.5, merge_boxes: bool = False
    ):
        super().__init__()
        self.top_k = tuple(top_k)
        self.iou_threshold = iou_threshold
        self.merge_boxes = merge_boxes

    def update(
        self,
        sentence_id: int | str,
        predictions: Sequence[Tensor],
        ground_truth: Sequence[Tensor],
        types: Sequence[Sequence[str]] | None = None,
    ) -> None:
        """Takes in one sentence.

        Args:
            sentence_id: a sentence that comes again is ignored.
            predictions: for each phrase boxes (N, 4) xyxy, best first; N may be 0.
            ground_truth: for each phrase boxes (G, 4) of its things, in the same pixels; without any it does not count.
            types: for each phrase the kinds that it counts for beside "all".
        Raises: ValueError when the numbers of phrases differ.
        """
        if len(predictions) != len(ground_truth):
            raise ValueError(
                f"sentence {sentence_id}: predictions for {len(predictions)} phrases, ground truth for "
                f"{len(ground_truth)}"
            )
        types = [()] * len(ground_truth) if types is None else types
        ranks = [
            (self._first_hit(found.cpu().double(), wanted.cpu().double()), tuple(names))
            for found, wanted, names in zip(predictions, ground_truth, types, strict=True)
            if len(wanted)
        ]
        self._items.setdefault(sentence_id, ranks)

    def _first_hit(self, boxes: Tensor, wanted: Tensor) -> int | None:
        """Number of better boxes before the first right one, None if no box is right."""
        if self.merge_boxes:
            wanted = union_box(wanted)
        hits = (box_iou(boxes, wanted) >= self.iou_threshold).any(1).nonzero()
        return int(hits[0]) if len(hits) else None

    def summarize(self) -> dict[str, float]:
        """`Recall@k_TYPE` and `Upper_bound_TYPE` (all boxes) in 0..1, for "all" and every type seen."""
        ranks: dict[str, list[int | None]] = defaultdict(list)
        for sentence in self._items.values():
            for rank, types in sentence:
                for name in {ALL_TYPES, *types}:
                    ranks[name].append(rank)
        names = sorted(ranks, key=lambda name: (name != ALL_TYPES, name))
        return {
            f"{figure_name(k)}_{name}": sum(_is_within(rank, k) for rank in ranks[name]) / len(ranks[name])
            for k in self.top_k
            for name in names
        }

    def __contains__(self, sentence_id: int | str) -> bool:
        return sentence_id in self._items

    @property
    def num_phrases(self) -> int:
        """Phrases collected."""
        return sum(map(len, self._items.values()))


def figure_name(k: int) -> str:
    """Recall@k, or Upper_bound for -1."""
    return "Upper_bound" if k == UPPER_BOUND else f"Recall@{k}"


def _is_within(rank: int | None, k: int) -> bool:
    return rank is not None and (k == UPPER_BOUND or rank < k)


def phrase_texts(record: Mapping[str, Any]) -> dict[int, str]:
    """{number of the phrase of `tokens_positive_eval`, from 1: its words in the caption}."""
    caption, phrases = record["caption"], record.get("tokens_positive_eval", ())
    return {
        label: " ".join(caption[begin:end] for begin, end in spans).strip() for label, spans in enumerate(phrases, 1)
    }


def phrase_ground_truth(record: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> list[Tensor]:
    """For every phrase of `tokens_positive_eval` the boxes (G, 4) xyxy of the annotations that it names, G may be 0.

    An annotation belongs to the phrase whose spans equal its own, or else to every phrase whose characters it shares.
    """
    phrases = [_spans(spans) for spans in record["tokens_positive_eval"]]
    named = [_spans(annotation["tokens_positive"]) for annotation in annotations]
    boxes = []
    for phrase in phrases:
        equal = [annotation for annotation, spans in zip(annotations, named, strict=True) if spans == phrase]
        chosen = equal or [a for a, spans in zip(annotations, named, strict=True) if _share_characters(spans, phrase)]
        corners = [_xyxy(annotation["bbox"]) for annotation in chosen]
        boxes.append(torch.tensor(corners, dtype=torch.float32).reshape(-1, 4))
    return boxes


def _spans(spans: Sequence[Sequence[int]]) -> frozenset[tuple[int, int]]:
    return frozenset((begin, end) for begin, end in spans)


def _share_characters(spans: frozenset[tuple[int, int]], others: frozenset[tuple[int, int]]) -> bool:
    return any(begin < other_end and other_begin < end for begin, end in spans for other_begin, other_end in others)


def _xyxy(box: Sequence[float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y + height]
