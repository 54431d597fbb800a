"""Captions for detection data: class names joined to a text, and for every box the characters that name it.

`FullPrompt` names every class of the dataset; `SampledPrompt` names the classes of the picture and a random choice of
absent ones, as far as they fit.  Both draw random numbers in the order of the original: a seed repeats its runs.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch

from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.text.class_names import clean_name
from maskrcnn_benchmark.text.prompt import check_caption_prompt
from maskrcnn_benchmark.text.spans import Span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

BACKGROUND = 0
NEGATIVE_POOLS = {
    "legacy": "all classes, with the background of TSV files and those of the picture; where drawn, the latter count "
    "as drawn",
    "clean": "the classes that the picture does not show",
    "verified": "the classes that the annotators did not find in the picture (`neg_category_ids` of LVIS)",
}
"""What negatives are chosen from. The original does as in "legacy"."""
DETECTION_PROMPT = "object detection : "

AS_MANY_AS_ALLOWED = (0.0, 0.0, 1.0, 0.0)
"""Control probabilities that take as many negatives as there may be."""

_COUNTED_SEPARATION = ". "  # what token counts assume between two names, whatever really stands there
_SPECIAL_TOKENS = 2  # at the ends of every caption


class PythonRandom(Protocol):
    """`random` or a `random.Random`."""

    def random(self) -> float: ...

    def shuffle(self, x: list[Any], /) -> None: ...


class NumpyRandom(Protocol):
    """`numpy.random` or a `numpy.random.RandomState`."""

    def choice(self, a: Any, size: Any = None, replace: bool = True) -> Any: ...


class Randomness(NamedTuple):
    """The two generators that sampling draws from."""

    python: PythonRandom = random
    numpy: NumpyRandom = np.random

    def __reduce__(self) -> str | tuple:
        """Loader workers that are spawned take their own process's generators: modules cannot be sent there."""
        return "GLOBAL_RANDOMNESS" if self is GLOBAL_RANDOMNESS else (Randomness, tuple(self))


GLOBAL_RANDOMNESS = Randomness()
"""The generators of the process, which `random.seed` and `numpy.random.seed` set."""


class GroundedCaption(NamedTuple):
    """A caption for the boxes of a picture.

    Attributes:
        caption: the text.
        annotations: one mapping for every box, in the style of COCO files with `bbox` as xyxy and with
            `tokens_positive`, the spans of the caption that name the box.
        greenlight_spans: the span of every box's name; tokens that masked language modelling may score.
        label_to_positions: span of every class in the caption, in the order of the text.
    """

    caption: str
    annotations: list[dict[str, Any]]
    greenlight_spans: list[Span]
    label_to_positions: dict[int, Span]


def name_lengths(class_names: Mapping[int, str], tokenizer: PreTrainedTokenizerBase) -> dict[int, int]:
    """{label: tokens that the cleaned name takes in a caption, with the separation after it}."""
    texts = [clean_name(name) + _COUNTED_SEPARATION for name in class_names.values()]
    if not texts:
        return {}
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return {label: len(tokens) for label, tokens in zip(class_names, ids, strict=True)}


def join_names(
    labels: Sequence[int],
    class_names: Mapping[int, str],
    separation: str,
    *,
    prefix: str = "",
    caption_prompt: Sequence[Mapping[str, str]] | None = None,
) -> tuple[str, dict[int, Span]]:
    """The caption that names the labels in order, and the span of each cleaned name.

    `caption_prompt` has one entry per place in the caption; its cleaned `name` replaces that of the class.
    """
    pieces = [prefix]
    length = len(prefix)
    spans: dict[int, Span] = {}
    for place, label in enumerate(labels):
        before, name, after = "", class_names[label], ""
        if caption_prompt is not None:
            entry = caption_prompt[place]
            before, name, after = entry["prefix"], entry["name"], entry["suffix"]
        before = separation + before if place else before
        name = clean_name(name)
        begin = length + len(before)
        spans[label] = (begin, begin + len(name))
        length = begin + len(name) + len(after)
        pieces += (before, name, after)
    return "".join(pieces), spans


class FullPrompt:
    """Names all classes, in ascending order of their labels or shuffled for every picture.

    Args:
        class_names: {label: name}.
        tokenizer, max_tokens: with a tokenizer, a warning tells when all names take more tokens than the model reads.
        shuffle: a new order for every picture; not together with `caption_prompt`.
        caption_prompt: for each class in ascending order a mapping with `prefix`, `name` and `suffix`.
    Raises: ValueError for a prompt that is shuffled or shorter than the list of classes.
    """

    def __init__(
        self,
        class_names: Mapping[int, str],
        *,
        separation: str = " ",
        shuffle: bool = True,
        add_detection_prompt: bool = False,
        caption_prompt: Sequence[Mapping[str, str]] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        max_tokens: int = 256,
        randomness: Randomness = GLOBAL_RANDOMNESS,
    ):
        if caption_prompt is not None and shuffle:
            raise ValueError("a caption prompt is bound to the order of the classes: set DATASETS.DISABLE_SHUFFLE")
        if caption_prompt is not None and len(caption_prompt) < len(class_names):
            raise ValueError(f"the caption prompt has {len(caption_prompt)} entries for {len(class_names)} classes")
        check_caption_prompt(caption_prompt or ())
        self.class_names = dict(sorted(class_names.items()))
        self.separation = separation
        self.shuffle = shuffle
        self.prefix = DETECTION_PROMPT if add_detection_prompt else ""
        self.caption_prompt = caption_prompt
        self.randomness = randomness
        if tokenizer is not None:
            self._warn_when_long(tokenizer, max_tokens)

    def __call__(self, target: BoxList, image_id: int | str) -> GroundedCaption:
        """The caption for a picture whose boxes have the field `labels`."""
        labels = list(self.class_names)
        if self.shuffle:
            self.randomness.python.shuffle(labels)
        caption, spans = join_names(
            labels, self.class_names, self.separation, prefix=self.prefix, caption_prompt=self.caption_prompt
        )
        return _grounded(target, image_id, caption, spans)

    def caption_in_order(self) -> tuple[str, dict[int, Span]]:
        """The caption in ascending order of the labels, and the span of every name."""
        return join_names(
            list(self.class_names),
            self.class_names,
            self.separation,
            prefix=self.prefix,
            caption_prompt=self.caption_prompt,
        )

    def _warn_when_long(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        caption, _ = self.caption_in_order()
        count = len(tokenizer(caption, verbose=False)["input_ids"])
        if count > max_tokens:
            logger.warning(
                "the names of all %d classes take %d tokens, of which the model reads %d; boxes of the classes at the "
                "end train as background. DATASETS.SPECIAL_SAFEGUARD_FOR_COCO_GROUNDING samples classes that fit",
                len(self.class_names),
                count,
                max_tokens,
            )


def needed_probabilities(values: Sequence[float], disable_shuffle: bool, name: str) -> Sequence[float]:
    """The control probabilities of a SampledPrompt for a dataset; none are needed where all classes are named.

    Raises: ValueError, with the name of the dataset, for missing ones.
    """
    if values:
        return values
    if not disable_shuffle:
        raise ValueError(
            f"dataset {name}: DATASETS.CONTROL_PROB is empty; sampling classes needs its four probabilities"
        )
    return AS_MANY_AS_ALLOWED


class SampledPrompt:
    """Names the classes of the picture and randomly chosen others, in random order, as far as they fit.

    Args:
        class_names: {label: name}; 0 is the background where it is present.
        tokenizer: tells how many tokens each name takes; asked once.
        random_sample_negative: most negatives per picture, R; -1 for none.
        control_probabilities: of (one negative, none, R, unused: must be 0); what is missing to 1 is the probability
            of a number from 1 to R, each as likely as the others.
        disable_shuffle: name all classes but the background in ascending order instead.
        max_num_labels: most classes in a caption, if it is positive.
        max_tokens: tokens of the caption, special ones included.
        negative_pool: what negatives are chosen from, see NEGATIVE_POOLS.
    Raises: ValueError for control probabilities that are not such, and for an unknown pool.
    """

    def __init__(
        self,
        class_names: Mapping[int, str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        random_sample_negative: int = -1,
        control_probabilities: Sequence[float] = AS_MANY_AS_ALLOWED,
        separation: str = " ",
        add_detection_prompt: bool = False,
        disable_shuffle: bool = False,
        max_num_labels: int = -1,
        max_tokens: int = 256,
        negative_pool: str = "legacy",
        randomness: Randomness = GLOBAL_RANDOMNESS,
    ):
        given = tuple(control_probabilities)
        if len(given) != 4 or min(given) < 0 or sum(given) > 1 or given[3] != 0:
            raise ValueError(f"control probabilities {given}: give four that sum to at most 1, the last of them 0")
        self.class_names = dict(class_names)
        self.lengths = name_lengths(class_names, tokenizer)
        self.random_sample_negative = random_sample_negative
        self.control_probabilities = given
        self.separation = separation
        self.prefix = DETECTION_PROMPT if add_detection_prompt else ""
        self.disable_shuffle = disable_shuffle
        self.max_num_labels = max_num_labels
        self.room = max_tokens - _SPECIAL_TOKENS
        if negative_pool not in NEGATIVE_POOLS:
            raise ValueError(f"DATASETS.NEG_POOL={negative_pool!r}: known pools are {', '.join(NEGATIVE_POOLS)}")
        self.negative_pool = negative_pool
        labels = [label for label in class_names if label != BACKGROUND or negative_pool == "legacy"]
        self.candidates = np.array(labels, dtype=np.int64)
        self.randomness = randomness

    def __call__(
        self, target: BoxList, image_id: int | str, absent: Collection[int] | None = None
    ) -> tuple[BoxList, GroundedCaption]:
        """The boxes whose classes fit into a caption, and that caption; `absent` are the labels of a verified pool."""
        present = _distinct_labels(target)
        target, length = self.screen(target)
        return target, self.convert(target, image_id, length, self._pool(present, absent))

    def screen(self, target: BoxList) -> tuple[BoxList, int]:
        """Drops the boxes of classes that do not fit into a caption; also returns the tokens that the names take.

        Classes are taken in random order up to the first that does not fit; its tokens are counted all the same.
        """
        labels = list(_distinct_labels(target))
        if unknown := sorted(set(labels) - self.lengths.keys()):
            raise ValueError(f"no class has the label {unknown[0]}")
        self.randomness.python.shuffle(labels)
        kept: set[int] = set()
        length = 0
        for label in labels:
            length += self.lengths[label]
            if length > self.room:
                break
            kept.add(label)
        if len(kept) == len(labels):
            return target, length
        keep = torch.tensor([label in kept for label in target.get_field("labels").tolist()])
        logger.warning("%d of %d boxes dropped: their classes do not fit into a caption", (~keep).sum(), len(keep))
        return target[keep], length

    def _pool(self, present: set[int], absent: Collection[int] | None) -> np.ndarray:
        """Labels (V,) to draw negatives from for a picture that shows `present`."""
        if self.negative_pool == "legacy":
            return self.candidates
        candidates = self.candidates
        if self.negative_pool == "verified":
            if absent is None:
                raise ValueError(
                    "DATASETS.NEG_POOL='verified' needs data that say what a picture does not show (neg_category_ids "
                    "of LVIS); use 'clean'"
                )
            candidates = np.array(sorted(absent), dtype=np.int64)
        return candidates[~np.isin(candidates, list(present))]

    def convert(
        self, target: BoxList, image_id: int | str, positive_length: int, pool: np.ndarray | None = None
    ) -> GroundedCaption:
        """The caption for the screened boxes, whose class names take `positive_length` tokens.

        Negatives are drawn from `pool` (V,), by default from all candidates.
        """
        if self.disable_shuffle:
            labels = sorted(label for label in self.class_names if label != BACKGROUND)
        else:
            pool = self.candidates if pool is None else pool
            labels = self._sample_labels(_distinct_labels(target), positive_length, pool)
        caption, spans = join_names(labels, self.class_names, self.separation, prefix=self.prefix)
        grounded = _grounded(target, image_id, caption, spans)
        for annotation in grounded.annotations:
            annotation["original_od_label"] = annotation["category_id"]
        return grounded

    def _sample_labels(self, present: set[int], positive_length: int, pool: np.ndarray) -> list[int]:
        count = min(self._draw_negative_count(len(present), len(pool)), len(pool))
        # A choice of nothing moves the generator on too; the original leaves it out without random_sample_negative.
        drawn = self.randomness.numpy.choice(pool, size=count, replace=False).tolist() if count >= 0 else []
        negatives = list({label for label in drawn if label not in present})
        positives = list(present)
        self.randomness.python.shuffle(positives)
        self.randomness.python.shuffle(negatives)
        room = self.room - positive_length
        fitting = []
        for label in negatives:
            room -= self.lengths[label]
            if room <= 0:
                break
            fitting.append(label)
        labels = fitting + positives
        self.randomness.python.shuffle(labels)
        return labels

    def _draw_negative_count(self, positive_count: int, pool_size: int) -> int:
        most = self.random_sample_negative
        if self.max_num_labels > 0:
            most = max(min(self.max_num_labels - positive_count, most), 0)
        most = min(most, pool_size)
        one, none, full, _ = self.control_probabilities
        draw = self.randomness.python.random()
        if draw < one:
            return 1
        if draw < one + none:
            return 0
        if draw < one + none + full:
            return most
        self.randomness.python.random()  # the original decides here, always alike, about negatives and positives
        self.randomness.python.random()
        return int(self.randomness.numpy.choice(max(1, most))) + 1


def _distinct_labels(target: BoxList) -> set[int]:
    return set(target.get_field("labels").tolist())


def _grounded(target: BoxList, image_id: int | str, caption: str, spans: dict[int, Span]) -> GroundedCaption:
    boxes = target.convert("xyxy").bbox.tolist()
    labels = target.get_field("labels").tolist()
    if unknown := sorted(set(labels) - spans.keys()):
        raise ValueError(f"picture {image_id}: no class has the label {unknown[0]}")
    annotations = [
        {
            "area": area,
            "iscrowd": 0,
            "image_id": image_id,
            "category_id": label,
            "id": None,
            "bbox": box,
            "tokens_positive": [spans[label]],
        }
        for box, label, area in zip(boxes, labels, target.area().tolist(), strict=True)
    ]
    return GroundedCaption(caption, annotations, [spans[label] for label in labels], spans)
