"""What fine-tuning on somebody's own data would stumble over: told before any time goes into training."""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from torch.utils.data import Dataset

from maskrcnn_benchmark.data.datasets.coco import COCODataset
from maskrcnn_benchmark.data.datasets.coco_grounding import CocoGrounding
from maskrcnn_benchmark.data.datasets.coco_json import check_records, is_crowd
from maskrcnn_benchmark.data.datasets.concat import ConcatDataset, CopiedDataset
from maskrcnn_benchmark.data.grounding.od_to_grounding import FullPrompt
from maskrcnn_benchmark.text.class_names import clean_name, folded_name, listed
from maskrcnn_benchmark.text.spans import token_range
from maskrcnn_benchmark.utils.messages import first_of

_NUMBERS = (int, float)

logger = logging.getLogger(__name__)


def parts_of(dataset: Any) -> list[Any]:
    """The datasets that a loader's dataset is made of, without copies."""
    if isinstance(dataset, CopiedDataset):
        return parts_of(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return [part for joined in dataset.datasets for part in parts_of(joined)]
    return [dataset]


def few_shot_choices(names: Iterable[str], parts: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """What was chosen of every few-shot dataset, by its name, for a JSON file."""
    choices = {name: getattr(part, "few_shot", None) for name, part in zip(names, parts, strict=True)}
    return {name: dict(vars(choice)) for name, choice in choices.items() if choice is not None}


def check_training_parts(parts: Mapping[str, Dataset], tokenizer, max_tokens: int) -> None:
    """Looks at the annotations of detection data by name of the set; other data are left alone.

    A class without a box is no mistake: it stays in the prompt, and is trained as absent. That is logged, as are
    classes of one name, and names that the text encoder does not know.
    Raises: ValueError for boxes that are no numbers, for boxes of a class whose name the model cannot read, and where
        there is no box at all.
    """
    has_boxes = False
    for name, dataset in parts.items():
        if not isinstance(dataset, COCODataset | CocoGrounding):
            has_boxes = True
            continue
        boxes = _count_boxes(name, dataset)
        has_boxes = has_boxes or bool(boxes)
        names = dataset.numbering.names
        absent = [names[label] for label in names if not boxes[label] and dataset.numbering.id_of[label] != 0]
        if absent:
            logger.warning(
                "Training set %s has no box of %d of %d classes, which stay in the prompt and train as absent: %s",
                name,
                len(absent),
                len(names),
                listed(absent),
            )
        if isinstance(dataset, CocoGrounding):
            warn_of_names(name, dataset, tokenizer)
        if isinstance(dataset, CocoGrounding) and isinstance(dataset.prompt, FullPrompt):
            _check_readable(name, dataset.prompt, boxes, tokenizer, max_tokens)
    if not has_boxes:
        raise ValueError(f"there is nothing to learn: no box that is not a crowd in {listed(list(parts))}")


def check_validation(
    name: str, dataset: Dataset, training_parts: Mapping[str, Dataset], tokenizer, max_tokens: int
) -> None:
    """Looks at the data by which the best weights are chosen; other data than detection data are left alone.

    Raises: ValueError without a box, for boxes that are no numbers, and for boxes of classes that training does not
    name.
    """
    if not isinstance(dataset, COCODataset | CocoGrounding):
        return
    boxes = _count_boxes(name, dataset)
    if not boxes:
        raise ValueError(
            f"validation set {name} ({dataset.ann_file}) has no box in {len(dataset)} pictures, so that no weights can "
            "be called the best: annotate some, or set TEST.DURING_TRAINING False and SOLVER.USE_AUTOSTEP False"
        )
    try:
        check_records(dataset.coco, dataset.numbering)
    except ValueError as error:
        raise ValueError(f"validation set {name} ({dataset.ann_file}): {error}") from error
    names = dataset.numbering.names
    for label in boxes:
        tokens = len(tokenizer(clean_name(names[label]))["input_ids"])
        if tokens > max_tokens:
            raise _too_long(name, names[label], tokens, max_tokens)
    trained = [
        part.numbering.names for part in training_parts.values() if isinstance(part, COCODataset | CocoGrounding)
    ]
    if len(trained) < len(training_parts):
        return  # captions name anything
    known = {folded_name(text) for part in trained for text in part.values()}
    unknown = [names[label] for label in sorted(boxes) if folded_name(names[label]) not in known]
    if unknown:
        named = listed(sorted({text for part in trained for text in part.values()}))
        raise ValueError(
            f"validation set {name} has boxes of {len(unknown)} classes that the training data do not name: "
            f"{listed(unknown)}. Training names {named}. "
            "Give both the same categories (DATASETS.OVERRIDE_CATEGORY with DATASETS.USE_OVERRIDE_CATEGORY True)"
        )
    asked = {folded_name(text) for text in names.values()}
    unmeasured = [text for part in trained for text in part.values() if folded_name(text) not in asked]
    if unmeasured:
        logger.warning("Validation set %s does not measure the trained classes %s", name, listed(unmeasured))


def _count_boxes(name: str, dataset: COCODataset | CocoGrounding) -> Counter[int]:
    """Boxes that are no crowd by label. Raises: ValueError for a box that is not four finite numbers."""
    counts: Counter[int] = Counter()
    bad: list[str] = []
    for image_id in dataset.ids:
        for annotation in dataset.coco.imgToAnns[image_id]:
            box = annotation.get("bbox", ())
            if len(box) != 4 or not all(isinstance(side, _NUMBERS) and math.isfinite(side) for side in box):
                bad.append(f"annotation {annotation.get('id')} of image {image_id!r} has {list(box)}")
            elif not is_crowd(annotation):
                counts[dataset.numbering.label(annotation)] += 1
    if bad:
        raise ValueError(
            f"data set {name} ({dataset.ann_file}) has {len(bad)} boxes that are not four finite numbers: "
            f"{first_of(bad)}. Correct or remove them"
        )
    return counts


def warn_of_names(name: str, dataset: CocoGrounding, tokenizer) -> None:
    """Logs the classes that the model cannot tell from others by their names."""
    texts, has_manual_prompt = list(dataset.numbering.names.values()), False
    if isinstance(dataset.prompt, FullPrompt):
        caption, spans = dataset.prompt.caption_in_order()
        texts = [caption[begin:end] for begin, end in spans.values()]
        has_manual_prompt = dataset.prompt.caption_prompt is not None
    times = Counter(map(folded_name, texts))
    alike = [text for text in texts if times[folded_name(text)] > 1]
    if alike and not has_manual_prompt:  # which may tell them apart by more than their names
        logger.warning(
            "Training set %s has %d classes whose names are alike, so that boxes of one train as absent for another: "
            "%s. Merge them, or give them different names",
            name,
            len(alike),
            listed(alike),
        )
    unknown = [
        text
        for text in texts
        if tokenizer.unk_token_id in tokenizer(clean_name(text), add_special_tokens=False)["input_ids"]
    ]
    if unknown:
        logger.warning(
            "Training set %s has %d class names with words that the text encoder does not know and cannot tell "
            "apart: %s. Name them in its language",
            name,
            len(unknown),
            listed(unknown),
        )


def _check_readable(name: str, prompt: FullPrompt, boxes: Mapping[int, int], tokenizer, max_tokens: int) -> None:
    """Boxes of a class without a token would train as background."""
    caption, spans = prompt.caption_in_order()
    whole = tokenizer(caption, verbose=False)
    lost: list[str] = []
    for label, count in boxes.items():
        begin, end = spans[label]
        tokens = token_range(whole, begin, end)
        if tokens is None:
            raise ValueError(
                f"training set {name} has {count} boxes of the class with label {label}, whose name "
                f"{caption[begin:end]!r} has no word: give it one (DATASETS.OVERRIDE_CATEGORY with "
                "DATASETS.USE_OVERRIDE_CATEGORY True)"
            )
        count = tokens[1] - tokens[0] + 1 + tokenizer.num_special_tokens_to_add(pair=False)
        if count > max_tokens:
            raise _too_long(name, caption[begin:end], count, max_tokens)
        if not prompt.shuffle and tokens[1] > max_tokens - 2:  # the last token read ends the text
            lost.append(caption[begin:end])
    if lost:
        raise ValueError(
            f"the prompt of training set {name} takes {len(whole['input_ids'])} tokens, of which the model reads "
            f"{max_tokens}; boxes of these classes would train as background: {listed(lost)}. Shorten the names, leave "
            "out classes, or let DATASETS.SPECIAL_SAFEGUARD_FOR_COCO_GROUNDING True sample classes that fit"
        )


def _too_long(name: str, text: str, tokens: int, max_tokens: int) -> ValueError:
    return ValueError(
        f"data set {name}: the class name {text[:60]!r}{'...' if len(text) > 60 else ''} takes {tokens} tokens, the "
        f"model reads {max_tokens} of a whole prompt (MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN); shorten it"
    )
