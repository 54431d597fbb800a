"""Captions with boxes that a teacher model found: reading a label row, and choosing its boxes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from maskrcnn_benchmark.ops import nms

FORMATS = ("v1", "v2")
Spans = Sequence[Sequence[int]]


class CaptionRecord(NamedTuple):
    """A caption and N boxes for phrases of it.

    Attributes:
        caption: the text.
        boxes: N times inclusive corners [x1, y1, x2, y2] in pixels.
        spans: for every box its phrases, half-open character ranges of the caption.
        scores: of the teacher, N.
        size: (width, height) of the picture that the boxes refer to; None for that of the picture as it is stored.
    """

    caption: str
    boxes: list[Sequence[float]]
    spans: list[Spans]
    scores: list[float]
    size: tuple[int, int] | None = None

    def select(self, indices: Sequence[int]) -> "CaptionRecord":
        """The boxes of these indices, in their order."""
        return self._replace(
            boxes=[self.boxes[i] for i in indices],
            spans=[self.spans[i] for i in indices],
            scores=[self.scores[i] for i in indices],
        )

    def shifted(self, caption: str, offset: int) -> "CaptionRecord":
        """The same boxes where the caption has become part of a longer one, from character `offset` on."""
        spans = [[(begin + offset, end + offset) for begin, end in phrases] for phrases in self.spans]
        return self._replace(caption=caption, spans=spans)


def read_caption_record(label: Mapping[str, Any], version: str = "v1") -> CaptionRecord:
    """A label row: `caption`, `bboxes`, `tokens_positive`, `scores` (by default 1), perhaps `img_w` and `img_h`.

    In format v1 the lists have an entry per box. In v2 they have an entry per phrase: `bboxes[e]` and `scores[e]` are
    the lists of its boxes, and `tokens_positive[e]` its spans, which each of its boxes gets.

    Raises: ValueError for an unknown format, for labels in the other one, and for lists of different lengths.
    """
    if version not in FORMATS:
        raise ValueError(f"DATASETS.CAPTION_FORMAT_VERSION={version!r}: known formats are {', '.join(FORMATS)}")
    boxes, spans = list(label["bboxes"]), list(label["tokens_positive"])
    is_grouped = any(isinstance(entry, Sequence) for box in boxes if isinstance(box, Sequence) for entry in box[:1])
    if is_grouped != (version == "v2") and any(boxes):
        form = "grouped by phrase" if is_grouped else "not grouped by phrase"
        raise ValueError(
            f"caption {label['caption'][:80]!r}: its boxes are {form}; "
            f"set DATASETS.CAPTION_FORMAT_VERSION {'v2' if is_grouped else 'v1'}"
        )
    scores = list(label["scores"]) if "scores" in label else None
    lengths = [len(boxes), len(spans), len(boxes if scores is None else scores)]
    if version == "v2" and len(set(lengths)) == 1:
        spans = [phrases for group, phrases in zip(boxes, spans, strict=True) for _ in group]
        boxes = [box for group in boxes for box in group]
        scores = None if scores is None else [score for group in scores for score in group]
        lengths = [len(boxes), len(spans), len(boxes if scores is None else scores)]
    if len(set(lengths)) != 1:
        raise ValueError(
            f"caption {label['caption'][:80]!r}: {lengths[0]} boxes, {lengths[1]} tokens_positive, {lengths[2]} scores"
        )
    size = (int(label["img_w"]), int(label["img_h"])) if "img_w" in label and "img_h" in label else None
    return CaptionRecord(label["caption"], boxes, spans, scores if scores is not None else [1.0] * len(boxes), size)


def caption_label(record: CaptionRecord, size: tuple[int, int], version: str = "v1") -> dict[str, Any]:
    """The label row of a record, which `read_caption_record` reads; `size` is the picture's (width, height).

    In format v2, boxes with the same spans form a phrase.
    Raises: ValueError for an unknown format.
    """
    if version not in FORMATS:
        raise ValueError(f"caption format {version!r}: known formats are {', '.join(FORMATS)}")
    label: dict[str, Any] = {"img_h": size[1], "img_w": size[0], "caption": record.caption}
    boxes, spans = [list(box) for box in record.boxes], [[list(span) for span in phrases] for phrases in record.spans]
    if version == "v1":
        return label | {"bboxes": boxes, "tokens_positive": spans, "scores": list(record.scores)}
    groups: dict[str, list[int]] = {}
    for index, phrases in enumerate(spans):
        groups.setdefault(str(phrases), []).append(index)
    return label | {
        "bboxes": [[boxes[i] for i in group] for group in groups.values()],
        "tokens_positive": [spans[group[0]] for group in groups.values()],
        "scores": [[record.scores[i] for i in group] for group in groups.values()],
    }


def read_caption(label: Any) -> str:
    """The caption of a label row, with or without boxes.

    It is the entry `caption`; or the texts of the list `captions`, joined by spaces; or what the only entry holds; or,
    where the row is a list, its captions joined by spaces.
    Raises: ValueError if the row has none of these.
    """
    if isinstance(label, str):
        return label
    if isinstance(label, list) and label:
        return " ".join(map(read_caption, label))
    if isinstance(label, Mapping):
        for key in ("caption", "captions"):
            if key in label:
                return read_caption(label[key])
        if len(label) == 1:
            return read_caption(next(iter(label.values())))
    raise ValueError(f"no caption in {str(label)[:80]!r}")


def screen(record: CaptionRecord, min_score: float, nms_threshold: float) -> CaptionRecord:
    """The boxes with scores above `min_score`; with a positive IoU threshold, without those that repeat a better one.

    Suppression does not tell phrases apart, and leaves the boxes in descending order of their scores.
    """
    record = record.select([i for i, score in enumerate(record.scores) if score > min_score])
    if nms_threshold <= 0 or not record.boxes:
        return record
    kept = nms(torch.tensor(record.boxes, dtype=torch.float32), torch.tensor(record.scores), nms_threshold).tolist()
    return record.select(sorted(kept, key=lambda i: -record.scores[i]))


def answer_as_mask(record: CaptionRecord, question: str, mask: str) -> CaptionRecord:
    """Hides the answer of a caption "QUESTION ANSWER": the caption becomes the question and, right after it, `mask`.

    The spans that touch the answer become the span of the mask.
    """
    answer_begin = len(question) + 1
    at_mask = (len(question), len(question) + len(mask))
    spans = [
        [at_mask if end >= answer_begin and begin <= len(record.caption) else (begin, end) for begin, end in phrases]
        for phrases in record.spans
    ]
    return record._replace(caption=question + mask, spans=spans)
