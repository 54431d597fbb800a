"""What the detections of an evaluation depend on: by this an interrupted one is known again."""

import json
from collections.abc import Mapping
from typing import Any

from maskrcnn_benchmark.data.datasets.modulated import GroundingJson
from maskrcnn_benchmark.data.datasets.od_tsv import ODTSVDataset
from maskrcnn_benchmark.data.picture_files import picture_file
from maskrcnn_benchmark.modeling.language_backbone.knowledge import Knowledge
from maskrcnn_benchmark.text.queries import read_caption_prompt

GROUPS = ("MODEL", "INPUT", "DATASETS", "TEST", "GLIPKNOW")
IRRELEVANT_TEST_KEYS = ("IMS_PER_BATCH", "DURING_TRAINING", "EXPECTED_RESULTS", "EXPECTED_RESULTS_SIGMA_TOL", "REPORT")


def describe_evaluation(cfg, name: str, dataset: Any, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Configuration, pictures and texts of an evaluation, in JSON's types, by names for messages.

    What is right in the pictures is not part of it: figures are computed again from the detections.

    Args:
        name: of the test set. more: what the detections depend on beside these, such as the weights.
    Raises: FileNotFoundError or ValueError for a file of prompts or knowledge that cannot be used.
    """
    parts = {group: json.loads(json.dumps(cfg[group], default=str)) for group in GROUPS}
    for key in IRRELEVANT_TEST_KEYS:
        parts["TEST"].pop(key)
    categories = getattr(dataset, "categories", dict)()
    knowledge = Knowledge.from_config(cfg)
    return {
        **parts,
        "dataset": [name, len(dataset)],
        "pictures": [_picture(dataset, index) for index in range(len(dataset))],
        "captions": [_caption(dataset, index) for index in range(len(dataset))],
        "classes": [[label, categories[label]] for label in sorted(categories)],
        "prompts": read_caption_prompt(cfg.DATASETS.CAPTION_PROMPT) if cfg.DATASETS.USE_CAPTION_PROMPT else None,
        "knowledge": None if knowledge is None else dict(knowledge.entries),
        **(more or {}),
    }


def _picture(dataset: Any, index: int) -> str | None:
    """Name of the picture of an item; None where it has none."""
    return dataset.tsv.key(index) if isinstance(dataset, ODTSVDataset) else picture_file(dataset, index)


def _caption(dataset: Any, index: int) -> list[Any] | None:
    """Caption and phrases of an item of a dataset of sentences."""
    if not isinstance(dataset, GroundingJson):
        return None
    record = dataset.get_img_info(index)
    return [record.get("caption"), record.get("tokens_positive_eval")]
