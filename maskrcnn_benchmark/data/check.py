"""What ``glip data check`` does: inspects the datasets of a configuration, and draws some of their items."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from maskrcnn_benchmark.data.build import dataset_names, find_datasets, make_dataset
from maskrcnn_benchmark.data.dataset_options import dataset_options
from maskrcnn_benchmark.data.datasets.coco_grounding import CocoGrounding
from maskrcnn_benchmark.data.inspection import (
    DatasetReport,
    ItemReport,
    class_names,
    inspect_dataset,
    place,
    read_item,
)
from maskrcnn_benchmark.data.malformed import malformed_annotations_named
from maskrcnn_benchmark.data.tuning_checks import warn_of_names
from maskrcnn_benchmark.text.tokenizer import build_tokenizer
from maskrcnn_benchmark.visualization.contact_sheet import Sample, contact_sheet

SAMPLES = 16  # pictures of a contact sheet


def check_datasets(
    cfg,
    is_train: bool,
    folder: Path,
    *,
    workers: int = 0,
    progress: Callable[[str], Callable[[Iterable[ItemReport], int], Iterable[ItemReport]]] | None = None,
) -> Iterator[tuple[DatasetReport, Path]]:
    """Inspects DATASETS.TRAIN or DATASETS.TEST one after the other.

    Writes NAME.json, the report, and NAME.png, a contact sheet of SAMPLES items, to `folder`. Class names that the
    model cannot tell apart are logged.

    Args:
        workers: processes that read, 0 for this one.
        progress: dataset name -> what wraps the items, see inspect_dataset.
    Yields: each dataset's report and the path of its contact sheet.
    Raises: ValueError for a configuration without datasets, or annotations that no dataset can be made of.
    """
    if not dataset_names(cfg, is_train):
        raise ValueError(f"DATASETS.{'TRAIN' if is_train else 'TEST'} is empty: name at least one dataset")
    found = find_datasets(cfg, is_train)  # before the tokenizer, which may have to be fetched
    text = cfg.MODEL.LANGUAGE_BACKBONE
    tokenizer = build_tokenizer(text.TOKENIZER_TYPE, mlm=bool(cfg.MODEL.DYHEAD.FUSE_CONFIG.MLM_LOSS))
    options = dataset_options(cfg, is_train)
    for name, description in found.items():
        dataset = make_untransformed(name, description, options, tokenizer)
        if isinstance(dataset, CocoGrounding):
            warn_of_names(name, dataset, tokenizer)
        report = inspect_dataset(
            name,
            dataset,
            tokenizer=tokenizer,
            max_tokens=text.MAX_QUERY_LEN,
            workers=workers,
            progress=None if progress is None else progress(name),
        )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(report.as_dict(), indent=1), encoding="utf-8")
        sheet = folder / f"{name}.png"
        contact_sheet(samples_of(dataset)).save(sheet)
        yield report, sheet


def make_untransformed(name: str, description: Mapping[str, Any], options: Mapping[str, Any], tokenizer) -> Dataset:
    """One dataset without transforms. Raises: ValueError if it is empty or cannot be made of its annotations."""
    with malformed_annotations_named(lambda: f"dataset {name}"):
        dataset = make_dataset(description, options, None, tokenizer)
    if not len(dataset):  # type: ignore[arg-type]
        raise ValueError(f"dataset {name} has no usable picture")
    return dataset


def samples_of(dataset: Dataset, count: int = SAMPLES) -> list[Sample]:
    """Up to `count` items, evenly spread over the dataset, with the phrases of their boxes."""
    length = len(dataset)  # type: ignore[arg-type]
    names = class_names(dataset)
    indices = np.linspace(0, length - 1, min(count, length)).round().astype(int).tolist()
    return [_sample(dataset, index, names) for index in indices]


def _sample(dataset: Dataset, index: int, names: Mapping[int, str]) -> Sample:
    try:
        image, target, used = read_item(dataset, index)
    except (ValueError, OSError, LookupError, TypeError, AttributeError) as error:
        return Sample(f"item {index}", f"cannot be read: {error}", None)
    if isinstance(target, Mapping):
        boxes, fields = target["boxes"].tolist(), target
    else:
        boxes, fields = target.convert("xyxy").bbox.tolist(), target.extra_fields
    title = f"item {used}, {place(dataset, used)}, {len(boxes)} boxes"
    return Sample(title, fields.get("caption", ""), image, boxes, phrases(fields, names))


def phrases(fields: Mapping[str, Any], names: Mapping[int, str]) -> list[str]:
    """For each box the words of the caption that name it, else the name of its class."""
    spans_of_boxes = fields.get("tokens_positive")
    if "caption" in fields and spans_of_boxes is not None:
        return [" / ".join(fields["caption"][begin:end] for begin, end in spans) for spans in spans_of_boxes]
    return [names.get(label, f"label {label}") for label in fields["labels"].tolist()]
