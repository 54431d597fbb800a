"""Class names with descriptions, one sentence per class (K-LITE, arXiv:2204.09222; configuration group GLIPKNOW)."""

import dataclasses
import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from maskrcnn_benchmark.config import try_to_find

from .features import TextFeatures

WIKI, BOTH = "wiki", ("gpt3_and_wiki", "wiki_and_gpt3")
"""What GLIPKNOW.KNOWLEDGE_TYPE may name beside fields: `def_wiki`, and that together with `gpt3`."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Knowledge:
    """Descriptions of classes.

    Attributes:
        entries: class name -> {"clean_name", "def_wiki", "gpt3": [...], ...}.
        source: field that is appended to the name, "" for none.
        use_wiki_and_gpt3: append both "def_wiki" and "gpt3"; num_gpt3: how many of the gpt3 sentences.
        aggregation: "first" (the [CLS] token) or "mean" over the words.
        max_classes_in_training: classes per training batch, -1 for as many as there are.
        as_original: make the captions that the original makes in effect: bare names unless use_wiki_and_gpt3, and with
            it bare names of classes that lack either part; nothing stands between the parts.
    """

    entries: Mapping[str, dict]
    source: str = ""
    use_wiki_and_gpt3: bool = False
    num_gpt3: int = 5
    aggregation: str = "first"
    max_classes_in_training: int = -1
    as_original: bool = False

    @classmethod
    def from_config(cls, cfg) -> "Knowledge | None":
        """None unless GLIPKNOW.PARALLEL_LANGUAGE_INPUT.

        Raises: ValueError on options that exclude each other, and for a GLIPKNOW.KNOWLEDGE_TYPE that no class of the
            file has; FileNotFoundError.
        """
        know = cfg.GLIPKNOW
        if not know.PARALLEL_LANGUAGE_INPUT:
            return None
        excluded = {
            "MODEL.DYHEAD.FUSE_CONFIG.MLM_LOSS": cfg.MODEL.DYHEAD.FUSE_CONFIG.MLM_LOSS,
            "DATASETS.ONE_HOT": cfg.DATASETS.ONE_HOT,
            "MODEL.LANGUAGE_BACKBONE.MASK_SPECIAL": cfg.MODEL.LANGUAGE_BACKBONE.MASK_SPECIAL,
        }
        for key, value in excluded.items():
            if value:
                raise ValueError(f"GLIPKNOW.PARALLEL_LANGUAGE_INPUT excludes {key}")
        if know.LAN_FEATURE_AGG_TYPE not in ("first", "mean"):
            raise ValueError(f"GLIPKNOW.LAN_FEATURE_AGG_TYPE={know.LAN_FEATURE_AGG_TYPE!r}; known are first, mean")
        entries = {}
        if know.KNOWLEDGE_FILE:
            entries = _read_entries(_find_file(know.KNOWLEDGE_FILE))
        source = "def_wiki" if know.KNOWLEDGE_TYPE == WIKI else know.KNOWLEDGE_TYPE
        use_both = know.WIKI_AND_GPT3 or source in BOTH
        fields = dict.fromkeys(field for entry in entries.values() for field in entry)
        if source and fields and source not in fields and not (use_both or know.ORIGINAL_CAPTIONS):
            raise ValueError(
                f"GLIPKNOW.KNOWLEDGE_TYPE={know.KNOWLEDGE_TYPE!r}: no class of {know.KNOWLEDGE_FILE} has such a field; "
                f"known are {', '.join(map(str, fields))}, {BOTH[0]}"
            )
        return cls(
            entries,
            source,
            know.WIKI_AND_GPT3 if know.ORIGINAL_CAPTIONS else use_both,
            know.GPT3_NUM,
            know.LAN_FEATURE_AGG_TYPE,
            know.MAX_NUM_CLASSES_PER_BATCH_TRAIN,
            know.ORIGINAL_CAPTIONS,
        )

    def caption(self, name: str) -> str:
        """The sentence of a class; its bare name, with a log record, where nothing is known."""
        entry = self.entries.get(name)
        if not entry:
            if name:
                logger.info("No knowledge about class %r; its name stands alone.", name)
            return name
        if self.as_original:
            return self._original_caption(name, entry)
        if self.use_wiki_and_gpt3:
            parts = [entry.get("def_wiki") or "", *(entry.get("gpt3") or [])[: self.num_gpt3]]
        else:
            known = (entry.get(self.source) if self.source else None) or []
            parts = [known] if isinstance(known, str) else known[: self.num_gpt3]
        knowledge = " ".join(filter(None, (str(part or "").strip() for part in parts)))
        text = str(entry.get("clean_name", name))
        return f"{text}: {knowledge}" if knowledge else text

    def _original_caption(self, name: str, entry: Mapping[str, Any]) -> str:
        has_parts = all(entry.get(key) is not None for key in ("clean_name", "def_wiki", "gpt3"))
        if not (self.use_wiki_and_gpt3 and has_parts):
            return name
        return f"{entry['clean_name']}: {entry['def_wiki']}{' '.join(entry['gpt3'][: self.num_gpt3])}"

    def training_classes(self, present: Sequence[str], rng: random.Random | None = None) -> list[str]:
        """Classes of one training batch: those present first, filled up at random, shuffled.

        rng: source of randomness; Python's global generator by default, which a training run seeds.
        """
        rng = rng or random
        names, limit = sorted(self.entries), self.max_classes_in_training
        if limit < 0:
            limit = len(names)
        if limit >= len(names):
            rng.shuffle(names)
            chosen = names + names[: limit - len(names)]
        else:
            chosen = list(dict.fromkeys(present))[:limit]
            rest = [name for name in names if name not in set(chosen)]
            chosen += rng.sample(rest, limit - len(chosen))
        rng.shuffle(chosen)
        return chosen


def _find_file(name: str) -> Path:
    """A file in the search path of data. Raises: FileNotFoundError."""
    try:
        path = Path(try_to_find(name))
    except FileNotFoundError:
        path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"GLIPKNOW.KNOWLEDGE_FILE {name!r} does not exist; knowledge/scenes.yaml is part of the project, the files "
            "of the GLIP authors are knowledge/*.yaml of their repository"
        )
    return path


def _read_entries(path: Path) -> dict[str, dict]:
    entries = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise ValueError(f"GLIPKNOW.KNOWLEDGE_FILE {str(path)!r} must map each class name to a table of its knowledge")
    return {str(name): entry for name, entry in entries.items()}  # a class "7" without quotes is a number to YAML


def class_features(text: TextFeatures, aggregation: str) -> tuple[Tensor, Tensor]:
    """Sentences (K, T, D) -> one (K, D) vector per sentence of `hidden` and of `embedded`."""
    if aggregation == "first":
        return text.hidden[:, 0], text.embedded[:, 0]
    mask = text.masks.unsqueeze(-1).to(text.hidden.dtype)
    count = mask.sum(1)
    return (text.hidden * mask).sum(1) / count, (text.embedded * mask).sum(1) / count


def classes_as_tokens(text: TextFeatures, aggregation: str, batch_size: int) -> TextFeatures:
    """Encoded sentences of K classes and one empty one -> text whose K + 1 tokens are classes; the last is masked."""
    hidden, embedded = class_features(text, aggregation)
    masks = torch.ones((batch_size, len(hidden)), dtype=text.masks.dtype, device=hidden.device)
    masks[:, -1] = 0
    return TextFeatures(
        aggregate=None,
        embedded=embedded.expand(batch_size, -1, -1),
        masks=masks,
        hidden=hidden.expand(batch_size, -1, -1),
    )


def positive_map_of_classes(label_names: Sequence[Sequence[str]], classes: Sequence[str]) -> Tensor:
    """Names of the boxes of each image -> (all boxes, K + 1) float, 1 at the box's class; absent classes give zeros."""
    column = {name: i for i, name in enumerate(classes)}
    rows = [name for names in label_names for name in names]
    positive_map = torch.zeros(len(rows), len(classes) + 1)
    for row, name in enumerate(rows):
        if name in column:
            positive_map[row, column[name]] = 1
    return positive_map
