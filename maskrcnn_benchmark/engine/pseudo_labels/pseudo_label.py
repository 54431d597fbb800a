"""Boxes for the phrases of captions, found by a teacher model, as data that train a student (GLIP, section 3.3)."""

import base64
import io
import json
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import yaml

from maskrcnn_benchmark.data.datasets.caption_record import FORMATS, CaptionRecord, caption_label
from maskrcnn_benchmark.data.datasets.image_file import decode_rgb
from maskrcnn_benchmark.data.datasets.tsv_file import TSVWriter
from maskrcnn_benchmark.data.image_text_pairs import Pair, PairShard
from maskrcnn_benchmark.engine.detector_api import Caption, Detector, Prediction
from maskrcnn_benchmark.ops import ml_nms
from maskrcnn_benchmark.text.class_names import has_content
from maskrcnn_benchmark.text.noun_phrases import NounPhrase, find_noun_phrases
from maskrcnn_benchmark.text.prompt import Prompt

logger = logging.getLogger(__name__)

FILES = {"img": "images.tsv", "label": "label.tsv", "hw": "hw.tsv"}
DESCRIPTOR, PHRASES, SKIPPED, REPORT = "data.yaml", "phrases.tsv", "skipped.tsv", "report.json"

BROKEN_PICTURE, EMPTY_CAPTION, UNREADABLE = "broken picture", "empty caption", "unreadable record"
UNUSABLE_CAPTION, NO_PHRASE, FEW_BOXES = "unusable caption", "no noun phrase", "too few boxes"
FAULTS = frozenset({BROKEN_PICTURE, EMPTY_CAPTION, UNREADABLE, UNUSABLE_CAPTION})
"""Why a pair is left out through a fault of the data."""

SHOWN_FAULTS = 10  # of each kind, in one process
SKIP, RAISE = "skip", "raise"

Progress = Callable[[int, "ShardReport"], None]


@dataclass(frozen=True)
class LabelOptions:
    """What becomes a pseudo-label.

    Attributes:
        threshold: boxes have scores above it.
        nms: IoU from which two boxes of a phrase count as the same; None leaves it to the model, which does that too.
        one_label, top: see Selection.
        min_boxes: pairs with fewer boxes are left out.
        version: of the records, see caption_record.
        on_error: "skip" or "raise" for pairs with a fault.
        batch_size: pictures computed at a time; threads: that decode pictures.
    Raises: ValueError for values out of range.
    """

    threshold: float = 0.5
    nms: float | None = None
    one_label: bool = False
    top: int | None = None
    min_boxes: int = 1
    version: str = "v1"
    on_error: str = SKIP
    batch_size: int = 1
    threads: int = 4

    def __post_init__(self) -> None:
        if self.version not in FORMATS:
            raise ValueError(f"caption format {self.version!r}: known formats are {', '.join(FORMATS)}")
        if self.on_error not in (SKIP, RAISE):
            raise ValueError(f"on_error={self.on_error!r}: {SKIP} or {RAISE}")
        if self.nms is not None and not 0 < self.nms <= 1:
            raise ValueError(f"nms={self.nms}: give an IoU above 0 and up to 1")
        if self.min_boxes < 0 or self.threads < 1:
            raise ValueError(f"min_boxes={self.min_boxes}, threads={self.threads}: give 0 and 1 or more")


@dataclass
class ShardReport:
    """What became of the pairs of a shard, or of several.

    Attributes:
        pairs: that were read; rows: that are in the data; boxes: in all rows.
        skipped: number of pairs that are not in the data, by reason.
        source: of the shard, see PairShard.
    """

    pairs: int = 0
    rows: int = 0
    boxes: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)

    def add(self, other: "ShardReport") -> None:
        """Adds the numbers of another one."""
        self.pairs, self.rows, self.boxes = self.pairs + other.pairs, self.rows + other.rows, self.boxes + other.boxes
        self.skipped = dict(Counter(self.skipped) + Counter(other.skipped))

    def check(self) -> None:
        """Asserts that no pair was lost or counted twice."""
        accounted = self.rows + sum(self.skipped.values())
        assert self.pairs == accounted, f"{self.pairs} pairs were read, but {accounted} are accounted for"

    @classmethod
    def read(cls, folder: Path) -> "ShardReport":
        """That of a finished shard."""
        return cls(**json.loads((folder / REPORT).read_text(encoding="utf-8")))


class ShardWriter:
    """Writes rows of a shard into a folder, and when its block ends without an error, the files that go with them."""

    def __init__(self, folder: Path, source: Mapping[str, Any], version: str):
        self.folder, self.version = folder, version
        self.report = ShardReport(source=dict(source))
        self.phrases: Counter[str] = Counter()

    def __enter__(self) -> "ShardWriter":
        with ExitStack() as stack:
            self._images, self._labels, self._sizes = (
                stack.enter_context(TSVWriter(self.folder / name)) for name in FILES.values()
            )
            self._skipped = stack.enter_context((self.folder / SKIPPED).open("w", encoding="utf-8"))
            self._files = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.__exit__(kind, error, trace)
        if kind is not None:
            return
        self.report.check()
        counts = "".join(f"{phrase}\t{count}\n" for phrase, count in sorted(self.phrases.items()))
        (self.folder / PHRASES).write_text(counts, encoding="utf-8")
        (self.folder / DESCRIPTOR).write_text(yaml.safe_dump(FILES, sort_keys=False))
        (self.folder / REPORT).write_text(json.dumps(asdict(self.report), indent=2) + "\n", encoding="utf-8")

    def write(
        self, pair: Pair, picture: bytes, size: tuple[int, int], record: CaptionRecord, phrases: Iterable[str]
    ) -> None:
        """Adds a row; `size` is the picture's (width, height), `phrases` has the text of the phrase of each box."""
        label = caption_label(record, size, self.version) | {"source": pair.source}
        self._images.write(pair.key, base64.b64encode(picture))
        self._labels.write(pair.key, json.dumps(label))
        self._sizes.write(pair.key, json.dumps([{"height": size[1], "width": size[0]}]))
        self.report.rows += 1
        self.report.boxes += len(record.boxes)
        self.phrases.update(phrases)

    def counted(self, pairs: Iterable[Pair]) -> Iterator[Pair]:
        """The pairs, of each of which the end of the block expects a row or a note that it is left out."""
        for pair in pairs:
            self.report.pairs += 1
            yield pair

    def skip(self, pair: Pair, reason: str, detail: str) -> None:
        """Notes a pair that is left out."""
        self.report.skipped[reason] = self.report.skipped.get(reason, 0) + 1
        cells = (pair.key, pair.source, reason, detail)
        self._skipped.write("\t".join(" ".join(cell.split()) for cell in cells).encode("utf-8", "replace").decode())
        self._skipped.write("\n")


class _Loaded(NamedTuple):
    """A pair with its picture (H, W, 3) as RGB, or why it is left out."""

    pair: Pair
    picture: bytes
    image: np.ndarray | None
    reason: str
    detail: str


class _Question(NamedTuple):
    """What the teacher is asked about a picture."""

    loaded: _Loaded
    image: np.ndarray
    phrases: list[NounPhrase]
    prompts: tuple[Prompt, ...]


class PseudoLabeler:
    """Labels shards with one teacher."""

    def __init__(self, detector: Detector, options: LabelOptions):
        self.detector, self.options = detector, options
        self._faults: Counter[str] = Counter()

    def label(self, shard: PairShard, folder: Path, progress: Progress = lambda amount, report: None) -> ShardReport:
        """Writes the rows of a shard to a folder, in the order of its pairs.

        progress: is told how much of the shard is done since the last call, and what was found so far.
        Raises: ValueError for a pair with a fault, if `on_error` says so, and for a shard that cannot be read.
        """
        done = 0
        with (
            ThreadPoolExecutor(self.options.threads) as pool,
            ShardWriter(folder, shard.source, self.options.version) as writer,
        ):
            for batch in self._batches(shard, pool, writer):
                self._answer(batch, writer)
                position = batch[-1].loaded.pair.position
                progress(position - done, writer.report)
                done = position
        progress(shard.size - done, writer.report)
        return writer.report

    def _batches(self, shard: PairShard, pool: ThreadPoolExecutor, writer: ShardWriter) -> Iterator[list[_Question]]:
        batch: list[_Question] = []
        for loaded in _ahead(pool, _load, writer.counted(shard), self.options.threads + 2 * self.options.batch_size):
            question = self._question(loaded, writer)
            if question is not None:
                batch.append(question)
            if len(batch) == self.options.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _question(self, loaded: _Loaded, writer: ShardWriter) -> _Question | None:
        """What to ask about a pair; None where it is left out."""
        if loaded.image is None:
            self._skip(loaded.pair, loaded.reason, loaded.detail, writer)
            return None
        caption = loaded.pair.caption
        try:
            phrases = find_noun_phrases(caption)
            if not phrases:
                self._skip(loaded.pair, NO_PHRASE, caption, writer)
                return None
            return _Question(loaded, loaded.image, phrases, self.detector.prepare(Caption(caption, tuple(phrases))))
        except ValueError as error:
            self._skip(loaded.pair, UNUSABLE_CAPTION, str(error), writer)
            return None

    def _answer(self, batch: list[_Question], writer: ShardWriter) -> None:
        options = self.options
        predictions = self.detector.predict(
            [question.image for question in batch],
            [question.prompts for question in batch],
            options.threshold,
            options.batch_size,
            one_label=options.one_label,
            top=options.top,
        )
        for question, prediction in zip(batch, predictions, strict=True):
            record, phrases = self._record(question, prediction)
            pair, image = question.loaded.pair, question.image
            if len(record.boxes) < options.min_boxes:
                self._skip(pair, FEW_BOXES, f"{len(record.boxes)} boxes", writer)
                continue
            size = (image.shape[1], image.shape[0])
            writer.write(pair, question.loaded.picture, size, record, phrases)

    def _record(self, question: _Question, prediction: Prediction) -> tuple[CaptionRecord, list[str]]:
        """The record of a pair, and the text of the phrase of each box."""
        boxes, scores, labels = prediction.boxes, prediction.scores, prediction.labels
        if self.options.nms is not None:
            kept = ml_nms(boxes, scores, labels, self.options.nms).sort().values  # they are in order of their scores
            boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        phrases = [question.phrases[label - 1] for label in labels.tolist()]
        record = CaptionRecord(
            question.loaded.pair.caption,
            [[round(value, 2) for value in box] for box in boxes.tolist()],
            [[(phrase.begin, phrase.end)] for phrase in phrases],
            [round(score, 4) for score in scores.tolist()],
        )
        return record, [phrase.text for phrase in phrases]

    def _skip(self, pair: Pair, reason: str, detail: str, writer: ShardWriter) -> None:
        writer.skip(pair, reason, detail)
        if reason not in FAULTS:
            return
        text = f"{pair.key} ({pair.source}): {reason}" + (f": {detail}" if detail else "")
        if self.options.on_error == RAISE:
            raise ValueError(text)
        self._faults[reason] += 1
        if self._faults[reason] <= SHOWN_FAULTS:
            more = "; more of them are only counted" if self._faults[reason] == SHOWN_FAULTS else ""
            logger.warning("left out: %s%s", text, more)


def _load(pair: Pair) -> _Loaded:
    """Reads and decodes the picture of a pair. Orientation tags are ignored, as by the data sets that read the rows."""
    if pair.problem:
        return _Loaded(pair, b"", None, UNREADABLE, pair.problem)
    if not has_content(pair.caption):
        return _Loaded(pair, b"", None, EMPTY_CAPTION, "")
    try:
        picture = pair.read()
        return _Loaded(pair, picture, np.asarray(decode_rgb(io.BytesIO(picture), pair.source)), "", "")
    except (OSError, ValueError) as error:
        return _Loaded(pair, b"", None, BROKEN_PICTURE, str(error))


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[Pair], _Loaded], items: Iterable[Pair], count: int
) -> Iterator[_Loaded]:
    """The results of a function in the order of its arguments, of which `count` are under way."""
    waiting: deque[Future[_Loaded]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= count:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
