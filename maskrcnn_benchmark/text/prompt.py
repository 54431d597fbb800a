"""Class lists -> captions whose words are linked to labels.

A caption joins the class names ("person. traffic light"); the model scores its tokens, and the label of a box is the
class whose tokens score best.  The text encoder sees a fixed number of tokens, so a long list becomes several prompts.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maskrcnn_benchmark.text.class_names import (
    check_unicode,
    clean_name,
    has_content,
    listed,
    shown,
    split_class_text,
)
from maskrcnn_benchmark.text.positive_map import MAX_TOKENS, token_positions
from maskrcnn_benchmark.text.spans import Span

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

__all__ = ["DEFAULT_SEPARATION", "Prompt", "build_prompts", "clean_name", "prompt_from_text", "split_class_text"]

logger = logging.getLogger(__name__)

DEFAULT_SEPARATION = ". "


@dataclass(frozen=True)
class Prompt:
    """One caption for the model and what its words stand for.

    Attributes:
        caption: the text that the model reads.
        label_to_tokens: label -> token positions in the caption, ascending; labels without a token are absent.
        phrases: label -> the name or phrase to show for it.
        spans: label -> character spans `[begin, end)` of the phrase in the caption.
    """

    caption: str
    label_to_tokens: dict[int, list[int]]
    phrases: dict[int, str]
    spans: dict[int, list[Span]]


@dataclass(frozen=True)
class _Entry:
    """One class on its way into a caption: `prefix` + `name` + `suffix`, of which only the name is scored."""

    label: int
    name: str
    prefix: str = ""
    suffix: str = ""

    @property
    def text(self) -> str:
        return self.prefix + self.name + self.suffix


def prompt_from_text(
    text: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    separation: str = DEFAULT_SEPARATION,
    max_tokens: int = MAX_TOKENS,
) -> list[Prompt]:
    """Prompts for a text that lists classes ("person. traffic light"), labels 1, 2, ... in the order of the text."""
    return build_prompts(split_class_text(text), tokenizer, separation=separation, max_tokens=max_tokens)


def build_prompts(
    names: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    labels: Sequence[int] | None = None,
    separation: str = DEFAULT_SEPARATION,
    chunk_size: int = -1,
    max_tokens: int = MAX_TOKENS,
    caption_prompt: Sequence[Mapping[str, str]] | None = None,
    extra: Sequence[str] | None = None,
    verbatim: bool = False,
) -> list[Prompt]:
    """Captions that together name every class, each at most `max_tokens` long.

    Args:
        names: class names, cleaned here with `clean_name`.
        labels: label of each name, all different; 1, 2, ... by default.
        separation: text between two names.
        chunk_size: names per caption; -1 fills every caption up to `max_tokens`.  A chunk that is too long is split.
        caption_prompt: for each name a mapping with `prefix`, `name` and `suffix` that replaces it; `name` is scored.
        extra: words appended to every caption that belong to no label.
        verbatim: keep blank and repeated names where they stand, as published figures were measured; by default blank
            names are skipped and of equal names the first label is kept, both with a warning.
    Raises: ValueError for an empty list, a class that alone is too long, or labels that do not fit the names.
    """
    entries = _entries(names, labels, caption_prompt)
    if not verbatim:
        if not any(has_content(entry.name) for entry in entries):
            raise ValueError(f"the prompt names no class, only {listed(names)}")
        entries = _without_repeats(_without_blanks(entries))
    tail = "".join(separation + word for word in extra or ())
    chunks = [entries[i : i + chunk_size] for i in range(0, len(entries), chunk_size)] if chunk_size > 0 else [entries]
    runs = _split_by_tokens(chunks, tokenizer, separation, tail, max_tokens)
    prompts = _assemble(runs, tokenizer, separation, tail, max_tokens)
    if not verbatim and not any(prompt.label_to_tokens for prompt in prompts):
        raise ValueError(f"the tokenizer has no token for any class of the prompt: {listed([e.name for e in entries])}")
    _warn_unmapped(prompts, tokenizer)
    return prompts


def _entries(
    names: Sequence[str], labels: Sequence[int] | None, caption_prompt: Sequence[Mapping[str, str]] | None
) -> list[_Entry]:
    if isinstance(names, str):
        raise ValueError(f"class names must be a list, not the text {shown(names)}; see prompt_from_text")
    if not names:
        raise ValueError("the prompt is empty; give at least one class name")
    wrong = next((name for name in names if not isinstance(name, str)), "")
    if wrong != "":
        raise ValueError(f"class name {wrong!r} is not a text")
    for name in names:
        check_unicode(name)
    if labels is None:
        labels = range(1, len(names) + 1)
    if len(labels) != len(names) or len(set(labels)) != len(names):
        raise ValueError(f"{len(names)} class names need as many different labels, not {len(set(labels))}")
    if caption_prompt is None:
        return [_Entry(label, clean_name(name)) for label, name in zip(labels, names, strict=True)]
    if len(caption_prompt) < len(names):
        raise ValueError(f"the caption prompt has {len(caption_prompt)} entries for {len(names)} class names")
    check_caption_prompt(caption_prompt)
    return [
        _Entry(label, part["name"], part["prefix"], part["suffix"])
        for label, part in zip(labels, caption_prompt, strict=False)
    ]


def check_caption_prompt(caption_prompt: Sequence[Mapping[str, str]]) -> None:
    """Raises: ValueError for an entry that does not have all of `prefix`, `name` and `suffix`."""
    for position, part in enumerate(caption_prompt):
        if lost := {"prefix", "name", "suffix"} - set(part if isinstance(part, Mapping) else ()):
            raise ValueError(f"entry {position} of the caption prompt lacks {', '.join(sorted(lost))}: {part!r}")


def _without_blanks(entries: list[_Entry]) -> list[_Entry]:
    kept = [entry for entry in entries if has_content(entry.name)]
    if len(kept) < len(entries):
        logger.warning("%d blank class names skipped", len(entries) - len(kept))
    return kept


def _without_repeats(entries: list[_Entry]) -> list[_Entry]:
    first: dict[tuple[str, str, str], _Entry] = {}
    repeated: list[str] = []
    for entry in entries:
        key = (entry.prefix, " ".join(entry.name.split()).casefold(), entry.suffix)
        if key in first:
            repeated.append(entry.name)
        else:
            first[key] = entry
    if repeated:
        logger.warning("repeated class names, the first label of each is kept: %s", listed(repeated))
    return list(first.values())


def _split_by_tokens(
    chunks: list[list[_Entry]], tokenizer: PreTrainedTokenizerBase, separation: str, tail: str, max_tokens: int
) -> list[list[_Entry]]:
    """Cuts every chunk greedily into runs whose caption has at most `max_tokens` tokens, special ones included."""
    entries = [entry for chunk in chunks for entry in chunk]
    lengths = iter(_token_counts(tokenizer, [entry.text + separation for entry in entries]))
    after_last, of_tail = _token_counts(tokenizer, [separation, tail])
    room = max_tokens - tokenizer.num_special_tokens_to_add(pair=False) - of_tail + after_last
    runs: list[list[_Entry]] = []
    for chunk in chunks:
        used = room + 1  # no run is open
        for entry in chunk:
            length = next(lengths)
            if length > room:
                raise ValueError(
                    f"class {shown(entry.text)} alone takes {length - after_last} tokens, "
                    f"but a prompt holds {room - after_last}; shorten it"
                )
            if used + length > room:
                runs.append([])
                used = 0
            runs[-1].append(entry)
            used += length
    return runs


def _assemble(
    runs: list[list[_Entry]], tokenizer: PreTrainedTokenizerBase, separation: str, tail: str, max_tokens: int
) -> list[Prompt]:
    joined = [_join(run, separation) for run in runs]
    captions = [text + tail for text, _ in joined]
    encoding = tokenizer(captions, verbose=False)
    prompts: list[Prompt] = []
    for index, (run, caption, (_, places)) in enumerate(zip(runs, captions, joined, strict=True)):
        count = len(encoding["input_ids"][index])
        if count <= max_tokens:
            prompts.append(_prompt(run, caption, places, encoding, index, max_tokens))
        elif len(run) > 1:  # a tokenizer whose counts do not simply add up
            halves = [run[: len(run) // 2], run[len(run) // 2 :]]
            prompts += _assemble(halves, tokenizer, separation, tail, max_tokens)
        else:
            raise ValueError(f"class {shown(run[0].text)} alone takes {count} tokens, a prompt holds {max_tokens}")
    return prompts


def _join(run: list[_Entry], separation: str) -> tuple[str, list[Span]]:
    """Caption of a run and the span of every name in it."""
    caption = ""
    spans: list[Span] = []
    for position, entry in enumerate(run):
        if position:
            caption += separation
        begin = len(caption) + len(entry.prefix)
        spans.append((begin, begin + len(entry.name)))
        caption += entry.text
    return caption, spans


def _prompt(
    run: list[_Entry], caption: str, places: list[Span], encoding: BatchEncoding, index: int, max_tokens: int
) -> Prompt:
    tokens = {
        entry.label: token_positions(encoding, [span], max_tokens, index)
        for entry, span in zip(run, places, strict=True)
    }
    return Prompt(
        caption=caption,
        label_to_tokens={label: positions for label, positions in tokens.items() if positions},
        phrases={entry.label: " ".join(entry.name.split()) for entry in run},
        spans={entry.label: [span] for entry, span in zip(run, places, strict=True)},
    )


def _warn_unmapped(prompts: list[Prompt], tokenizer: PreTrainedTokenizerBase) -> None:
    """Names the classes that the model cannot see, and those of which it sees only that something is there."""
    lost = [name for prompt in prompts for label, name in prompt.phrases.items() if label not in prompt.label_to_tokens]
    if lost:
        logger.warning("no token stands for these classes, they are never detected: %s", listed(lost))
    names = list({name: None for prompt in prompts for name in prompt.phrases.values() if not name.isascii()})
    if not names or tokenizer.unk_token_id is None:
        return
    ids = tokenizer(names, add_special_tokens=False, verbose=False)["input_ids"]
    unknown = [
        name for name, tokens in zip(names, ids, strict=True) if tokens and set(tokens) == {tokenizer.unk_token_id}
    ]
    if unknown:
        logger.warning("the vocabulary does not know these classes, they look alike to the model: %s", listed(unknown))


def _token_counts(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[int]:
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]
