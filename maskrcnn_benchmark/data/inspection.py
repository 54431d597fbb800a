"""Reads a whole dataset and tells what training would stumble over or silently lose."""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from maskrcnn_benchmark.data.annotated_boxes import annotated_boxes
from maskrcnn_benchmark.data.grounding.od_to_grounding import SampledPrompt
from maskrcnn_benchmark.data.reproducible import sample_seed
from maskrcnn_benchmark.data.worker_errors import worker_errors_in_one_line
from maskrcnn_benchmark.data.worker_process import leave_with_parent
from maskrcnn_benchmark.text.spans import token_range
from maskrcnn_benchmark.utils.logger import only_errors
from maskrcnn_benchmark.utils.random_state import seeded

UNREADABLE, WRONG_SIZE, OUTSIDE, EMPTY = "unreadable", "wrong_size", "outside", "empty"
LOST_PHRASE, LOST_BOX, LONG_CAPTION = "lost_phrase", "lost_box", "long_caption"
KINDS: dict[str, str] = {
    UNREADABLE: "items that cannot be read",
    WRONG_SIZE: "pictures of another size than the annotations say",
    OUTSIDE: "boxes out of range",
    EMPTY: "boxes without an inside",
    LOST_PHRASE: "phrases whose tokens are lost",
    LOST_BOX: "pictures with boxes whose classes do not fit into the caption",
    LONG_CAPTION: "captions over the limit",
}
"""Kinds of problems, in the order in which they are reported."""

KEPT_EXAMPLES = 1000  # per kind
TOLERANCE = 1.0  # pixels by which a box may pass the border: annotations count them in two ways
_CHATTY = SampledPrompt.__module__  # warns of every picture that is reported here


class Problem(NamedTuple):
    """What is wrong, as one of KINDS, and a line that says where."""

    kind: str
    text: str


class ItemReport(NamedTuple):
    """What one item has: its problems and the labels of its boxes; or that another one stands in for it."""

    problems: tuple[Problem, ...] = ()
    labels: tuple[int, ...] = ()
    is_left_out: bool = False


@dataclass
class DatasetReport:
    """What a dataset has.

    Attributes:
        counts, examples: number of problems per kind, and the first KEPT_EXAMPLES lines of each.
        class_counts: boxes per class name (#label without one), classes without a box included.
        left_out: records of the annotation file that the dataset does not use (too few usable boxes, or few-shot).
    """

    name: str
    items: int = 0
    boxes: int = 0
    left_out: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    class_counts: dict[str, int] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        return not self.counts

    def add(self, item: ItemReport, names: Mapping[int, str]) -> None:
        """Takes in one item; `names` are those of the labels."""
        if item.is_left_out:
            self.left_out += 1
            return
        self.items += 1
        self.boxes += len(item.labels)
        for label in item.labels:
            name = names.get(label, f"#{label}")
            self.class_counts[name] = self.class_counts.get(name, 0) + 1
        for problem in item.problems:
            self.counts[problem.kind] += 1
            kept = self.examples.setdefault(problem.kind, [])
            if len(kept) < KEPT_EXAMPLES:
                kept.append(problem.text)

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        problems = {
            kind: {"count": self.counts[kind], "examples": self.examples[kind]} for kind in KINDS if self.counts[kind]
        }
        return {
            "dataset": self.name,
            "items": self.items,
            "boxes": self.boxes,
            "left_out": self.left_out,
            "problems": problems,
            "class_counts": self.class_counts,
        }


def inspect_dataset(
    name: str,
    dataset: Dataset,
    *,
    tokenizer=None,
    max_tokens: int = 256,
    workers: int = 0,
    progress: Callable[[Iterable[ItemReport], int], Iterable[ItemReport]] | None = None,
) -> DatasetReport:
    """Reads every item once.

    Args:
        dataset: made without transforms, so that items hold PIL images.
        tokenizer, max_tokens: of the captions; without a tokenizer they are not checked.
        workers: processes that read, 0 for this one.
        progress: wraps the items and their number, to show how far it is.
    Raises: WorkerLost for a worker that was killed.
    """
    names = class_names(dataset)
    report = DatasetReport(name, left_out=_left_out(dataset), class_counts=dict.fromkeys(names.values(), 0))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the tokenizer's own threads do not survive a fork
    inspected = InspectedDataset(dataset, tokenizer, max_tokens)
    loader = DataLoader(
        inspected, batch_size=None, num_workers=workers, collate_fn=_as_it_is, worker_init_fn=_start_worker
    )
    items: Iterable[ItemReport] = loader if progress is None else progress(loader, len(inspected))
    with only_errors(_CHATTY), worker_errors_in_one_line():
        for item in items:
            report.add(item, names)
    return report


def class_names(dataset: Dataset) -> dict[int, str]:
    """{label: class name}, empty where the dataset has no classes."""
    categories = getattr(dataset, "categories", None)
    if categories is not None:
        return dict(categories())
    coco = getattr(dataset, "coco", None)
    return {number: record["name"] for number, record in coco.cats.items()} if coco is not None else {}


def read_item(dataset: Dataset, index: int):
    """Picture, target and index of item `index`, with random choices that depend on the index alone."""
    with seeded(sample_seed(index)):
        return dataset[index][:3]


class InspectedDataset(Dataset):
    """Item i -> the ItemReport of item i of a dataset without transforms."""

    def __init__(self, dataset: Dataset, tokenizer=None, max_tokens: int = 256):
        self.dataset = dataset
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> ItemReport:
        try:
            return self._inspect(index)
        except (ValueError, OSError) as error:
            return ItemReport((Problem(UNREADABLE, f"item {index}: {error}"),))
        except (LookupError, TypeError, AttributeError) as error:  # of annotations that lack something
            return ItemReport((Problem(UNREADABLE, f"item {index}: {type(error).__name__}: {error}"),))

    def _inspect(self, index: int) -> ItemReport:
        image, target, used = read_item(self.dataset, index)
        if used != index:
            return ItemReport(is_left_out=True)
        where = f"item {index} ({place(self.dataset, index)})"
        fields = target if isinstance(target, Mapping) else target.extra_fields
        problems = [Problem(kind, f"{where}: {text}") for kind, text in self._findings(index, image.size, fields)]
        return ItemReport(tuple(problems), tuple(torch.as_tensor(fields["labels"]).tolist()))

    def _findings(self, index: int, size: tuple[int, int], fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        record = _record(self.dataset, index)
        noted = (record.get("width"), record.get("height"))
        if None not in noted and noted != size:
            yield WRONG_SIZE, f"is {size[0]}x{size[1]}, annotated as {noted[0]}x{noted[1]}"
        boxes = annotated_boxes(self.dataset, index)
        yield from box_problems(boxes, size)
        if "caption" not in fields:
            return
        if isinstance(getattr(self.dataset, "prompt", None), SampledPrompt):
            usable = sum(has_inside(box, size) for box in boxes)
            if len(fields["labels"]) < usable:
                yield LOST_BOX, f"{usable - len(fields['labels'])} of {usable} boxes"
        if self.tokenizer is not None:
            spans = [*fields.get("tokens_positive", [[]] * len(fields["labels"]))]
            spans += record.get("tokens_positive_eval", [])
            yield from caption_problems(fields["caption"], spans, self.tokenizer, self.max_tokens)


def box_problems(boxes: Sequence[Sequence[float]], size: tuple[int, int]) -> Iterator[tuple[str, str]]:
    """(kind, text) for boxes xyxy, inclusive, that pass the border of a picture of (width, height) or are empty."""
    width, height = size
    for x1, y1, x2, y2 in boxes:
        text = f"box ({x1:g}, {y1:g}) to ({x2:g}, {y2:g})"
        if not all(map(math.isfinite, (x1, y1, x2, y2))):
            yield OUTSIDE, f"{text} is not finite"
        elif x2 <= x1 or y2 <= y1:
            yield EMPTY, text
        elif min(x1, y1) < -TOLERANCE or x2 > width - 1 + TOLERANCE or y2 > height - 1 + TOLERANCE:
            yield OUTSIDE, f"{text} in a picture of {width}x{height}"


def has_inside(box: Sequence[float], size: tuple[int, int]) -> bool:
    """Whether something is left of a box xyxy that is clipped to (width, height)."""
    (x1, y1, x2, y2), (width, height) = box, size
    return min(x2, width - 1) > max(x1, 0) and min(y2, height - 1) > max(y1, 0)


def caption_problems(
    caption: str, tokens_positive: Sequence[Sequence[Sequence[int]]], tokenizer, max_tokens: int
) -> Iterator[tuple[str, str]]:
    """(kind, text) for a caption with too many tokens, and for each phrase whose tokens the model does not read.

    tokens_positive: the spans of every box or phrase.
    """
    count = len(tokenizer(caption, verbose=False)["input_ids"])
    if count > max_tokens:
        yield LONG_CAPTION, f"{count} tokens of {max_tokens}: {_short(caption)!r}"
    encoding = tokenizer(caption, max_length=max_tokens, truncation=True, verbose=False)
    without = sum(not spans for spans in tokens_positive)
    if without:
        yield LOST_PHRASE, f"{without} boxes have no phrase of {_short(caption)!r}"
    for begin, end in sorted({(span[0], span[1]) for spans in tokens_positive for span in spans}):
        if not 0 <= begin < end <= len(caption):
            yield LOST_PHRASE, f"characters {begin} to {end} of a caption of {len(caption)}: {_short(caption)!r}"
        elif token_range(encoding, begin, end) is None:
            yield LOST_PHRASE, f"{_short(caption[begin:end])!r} (characters {begin} to {end})"


def place(dataset: Dataset, index: int) -> str:
    """Names an item: by its file, else by its key, else by its id."""
    record = _record(dataset, index)
    known = [str(record[key]) for key in ("file_name", "key", "id") if key in record]
    return known[0] if known else str(getattr(dataset, "ids", range(index + 1))[index])


def _record(dataset: Dataset, index: int) -> Mapping[str, Any]:
    get_img_info = getattr(dataset, "get_img_info", None)
    return {} if get_img_info is None else get_img_info(index)


def _left_out(dataset: Dataset) -> int:
    coco = getattr(dataset, "coco", None)
    return 0 if coco is None else len(coco.imgs) - len(dataset)  # type: ignore[arg-type]


def _short(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _as_it_is(item: Any) -> Any:
    return item


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)
    leave_with_parent()
