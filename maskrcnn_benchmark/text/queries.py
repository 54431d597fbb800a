"""The historical functions that make captions and maps from a configuration, for code written against their names.

`maskrcnn_benchmark.engine.inference` passes them on; new code calls `build_prompts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from maskrcnn_benchmark.text.class_names import clean_name
from maskrcnn_benchmark.text.positive_map import token_positions
from maskrcnn_benchmark.text.prompt import Prompt, build_prompts
from maskrcnn_benchmark.text.spans import CharToToken
from maskrcnn_benchmark.text.tokenizer import build_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "clean_name",
    "create_positive_dict",
    "create_queries_and_maps",
    "create_queries_and_maps_from_dataset",
]


class HasCategories(Protocol):
    """What a detection dataset must offer to be asked about in words."""

    def categories(self) -> Mapping[int, str]:
        """{label: class name}."""


def create_queries_and_maps_from_dataset(
    dataset: HasCategories, cfg: Any, *, tokenizer: PreTrainedTokenizerBase | None = None
) -> tuple[list[str], list[dict[int, list[int]]]]:
    """Captions that together name all classes of the dataset, and for each its {label: token positions}.

    `TEST.CHUNKED_EVALUATION` classes per caption, or, if it is -1, as many as fit; a chunk that is too long is split.
    """
    prompts = prompts_from_dataset(dataset, cfg, tokenizer)
    return [prompt.caption for prompt in prompts], [prompt.label_to_tokens for prompt in prompts]


def prompts_from_dataset(
    dataset: HasCategories, cfg: Any, tokenizer: PreTrainedTokenizerBase | None = None
) -> list[Prompt]:
    """What `create_queries_and_maps_from_dataset` returns in two lists, with the character spans of the classes.

    Raises: ValueError for a dataset without categories.
    """
    categories = dataset.categories()
    if not categories:
        raise ValueError(
            "the test set has no categories to ask for: its annotation file needs a list of categories, or the "
            "configuration DATASETS.OVERRIDE_CATEGORY with DATASETS.USE_OVERRIDE_CATEGORY"
        )
    labels = sorted(categories)
    return _prompts(
        labels,
        [categories[label] for label in labels],
        _suppressed(cfg),
        cfg,
        tokenizer,
        chunk_size=cfg.TEST.CHUNKED_EVALUATION,
    )


def create_queries_and_maps(
    labels: Sequence[int],
    label_list: Sequence[str],
    additional_labels: Sequence[str] | None = None,
    cfg: Any = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> tuple[str, dict[int, list[int]]]:
    """The caption that joins the names of `label_list`, and its {label: token positions}.

    `additional_labels` are appended to the caption but belong to no label.  Raises ValueError when the names do not fit
    into one caption of `MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN` tokens.
    """
    prompts = _prompts(labels, label_list, additional_labels, cfg, tokenizer, chunk_size=-1)
    if len(prompts) > 1:
        limit = cfg.MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN
        raise ValueError(f"{len(label_list)} class names take {len(prompts)} captions of {limit} tokens, not one")
    return prompts[0].caption, prompts[0].label_to_tokens


def _prompts(
    labels: Sequence[int],
    names: Sequence[str],
    extra: Sequence[str] | None,
    cfg: Any,
    tokenizer: PreTrainedTokenizerBase | None,
    chunk_size: int,
) -> list[Prompt]:
    language = cfg.MODEL.LANGUAGE_BACKBONE
    return build_prompts(
        names,
        tokenizer if tokenizer is not None else build_tokenizer(language.TOKENIZER_TYPE),
        labels=labels,
        separation=cfg.DATASETS.SEPARATION_TOKENS,
        chunk_size=chunk_size,
        max_tokens=language.MAX_QUERY_LEN,
        caption_prompt=read_caption_prompt(cfg.DATASETS.CAPTION_PROMPT) if cfg.DATASETS.USE_CAPTION_PROMPT else None,
        extra=extra,
        verbatim=True,
    )


def _suppressed(cfg: Any) -> Sequence[str] | None:
    words = cfg.DATASETS.SUPRESS_QUERY if cfg.DATASETS.USE_SUPRESS_QUERY else None
    return [words] if isinstance(words, str) else words


def read_caption_prompt(value: Any) -> Sequence[Mapping[str, str]] | None:
    """`DATASETS.CAPTION_PROMPT`: a list of mappings, or the path of a YAML file that holds one; None stays None."""
    if not isinstance(value, str):
        return value
    try:
        content = yaml.safe_load(Path(value).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise FileNotFoundError(f"the caption prompt file '{value}' cannot be read: {error.strerror}") from error
    if not isinstance(content, list):
        raise ValueError(f"the caption prompt file '{value}' holds no list")
    return content


def create_positive_dict(
    tokenized: CharToToken, tokens_positive: Sequence[Sequence[int]], labels: Sequence[int]
) -> tuple[dict[int, int], dict[int, list[int]]]:
    """{token position: label} and {label: token positions} for one character span per label.

    A label whose span covers no token is in neither; one that comes again gets the positions of all its spans.
    """
    label_to_token: dict[int, list[int]] = {}
    for label, span in zip(labels, tokens_positive, strict=True):
        positions = token_positions(tokenized, [span])
        if positions:
            label_to_token.setdefault(label, []).extend(positions)
    token_to_label = {position: label for label, positions in label_to_token.items() for position in positions}
    return token_to_label, label_to_token
