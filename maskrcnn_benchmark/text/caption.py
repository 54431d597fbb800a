"""Free captions -> prompts: which words of a sentence are phrases to find, and a way to cut a text that is too long."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from maskrcnn_benchmark.text.class_names import check_unicode, has_content, listed, shown
from maskrcnn_benchmark.text.noun_phrases import NounPhrase, find_noun_phrases, remove_punctuation
from maskrcnn_benchmark.text.positive_map import MAX_TOKENS, token_positions
from maskrcnn_benchmark.text.prompt import Prompt
from maskrcnn_benchmark.text.spans import Span, phrase_occurrences

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

PhraseLike = str | Span | NounPhrase
"""A phrase by its words, by its characters `[begin, end)`, or both."""

_SENTENCE_ENDS = ".!?;。！？；\n"
_CLAUSE_ENDS = ",:，、："


def prompt_from_caption(
    caption: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    phrases: Sequence[PhraseLike] | None = None,
    max_tokens: int = MAX_TOKENS,
) -> Prompt:
    """The prompt of a caption that fits into `max_tokens`; see `prompts_from_caption`, which also takes longer ones.

    Raises: ValueError, also for a caption that is too long.
    """
    prompts = prompts_from_caption(caption, tokenizer, phrases=phrases, max_tokens=max_tokens)
    if len(prompts) > 1 or prompts[0].caption != caption:
        count = len(tokenizer(caption, verbose=False)["input_ids"])
        raise ValueError(f"the caption {shown(caption)} has {count} tokens, one prompt holds {max_tokens}")
    return prompts[0]


def prompts_from_caption(
    caption: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    phrases: Sequence[PhraseLike] | None = None,
    max_tokens: int = MAX_TOKENS,
) -> list[Prompt]:
    """Prompts whose labels 1, 2, ... are the phrases of the caption: one, or several where the caption is too long.

    Args:
        phrases: what to look for.  Words are found as whole words, the second "dog" of the list at the second place
            where it stands, and so on.  By default these are the noun phrases, or the whole caption if it has none.
    A long caption is cut between phrases, if possible at the end of a sentence; pieces without a phrase are left out.
    Raises: ValueError for an empty caption, a phrase that does not occur, or one that alone is too long.
    """
    if not has_content(caption):
        raise ValueError(f"the caption {shown(caption)} holds no word; write for example 'a man on a horse'")
    check_unicode(caption)
    found = _noun_phrases(caption) if phrases is None else _locate(caption, phrases)
    encoding = tokenizer(caption, verbose=False)
    if len(encoding["input_ids"]) <= max_tokens:
        windows = [_Window(caption, 0, dict(enumerate(found, 1)))]
    else:
        windows = [window for window in _windows(caption, found, tokenizer, max_tokens) if window.phrases]
        logger.warning("the caption has %d tokens and is cut into %d", len(encoding["input_ids"]), len(windows))
    prompts = [_prompt(window, tokenizer, max_tokens) for window in windows]
    lost = [
        phrase for prompt in prompts for label, phrase in prompt.phrases.items() if label not in prompt.label_to_tokens
    ]
    if len(lost) == len(found):
        raise ValueError(f"the tokenizer has no token for any phrase of the caption {shown(caption)}")
    if lost:
        logger.warning("no token stands for these phrases, they are never detected: %s", listed(lost))
    return prompts


class _Window(NamedTuple):
    """A piece of a caption that starts at character `offset`; `phrases` by label, with places in the whole caption."""

    text: str
    offset: int
    phrases: dict[int, NounPhrase]


def _noun_phrases(caption: str) -> list[NounPhrase]:
    found = find_noun_phrases(caption)
    if found:
        return found
    text = caption.strip()
    begin = caption.index(text)
    logger.warning("no noun phrase in the caption %s; all of it is taken as one phrase", shown(caption))
    return [NounPhrase(remove_punctuation(text) or text, begin, begin + len(text))]


def _locate(caption: str, phrases: Sequence[PhraseLike]) -> list[NounPhrase]:
    if isinstance(phrases, str) or not phrases:
        raise ValueError(f"the phrases of a caption must be a list with at least one entry, not {phrases!r}")
    places: dict[str, Iterator[Span]] = {}
    found = []
    for phrase in phrases:
        if isinstance(phrase, str):
            key = " ".join(phrase.split()).casefold()
            span = next(places.setdefault(key, iter(phrase_occurrences(caption, phrase))), None)
            if span is None:
                raise ValueError(f"phrase {shown(phrase)} does not occur (so often) in the caption {shown(caption)}")
            found.append(NounPhrase(phrase, *span))
            continue
        begin, end = phrase[-2:]
        if not 0 <= begin < end <= len(caption):
            raise ValueError(f"the characters {begin} to {end} lie outside the caption of {len(caption)} characters")
        text = phrase.text if isinstance(phrase, NounPhrase) else caption[begin:end]
        found.append(NounPhrase(text, begin, end))
    return found


def _prompt(window: _Window, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Prompt:
    encoding = tokenizer(window.text, verbose=False)
    count = len(encoding["input_ids"])
    if count > max_tokens:
        raise ValueError(f"the text {shown(window.text)} has {count} tokens, but a prompt holds {max_tokens}")
    spans = {
        label: (phrase.begin - window.offset, phrase.end - window.offset) for label, phrase in window.phrases.items()
    }
    tokens = {label: token_positions(encoding, [span], max_tokens) for label, span in spans.items()}
    return Prompt(
        caption=window.text,
        label_to_tokens={label: positions for label, positions in tokens.items() if positions},
        phrases={label: phrase.text for label, phrase in window.phrases.items()},
        spans={label: [span] for label, span in spans.items()},
    )


def _windows(
    caption: str, phrases: Sequence[NounPhrase], tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> Iterator[_Window]:
    """Consecutive pieces of at most `max_tokens` tokens (special ones included), none of which cuts a phrase."""
    room = max_tokens - tokenizer.num_special_tokens_to_add(pair=False)
    offsets = tokenizer(caption, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    quality = _cut_quality(caption, phrases, offsets)
    start = 0
    while start < len(offsets):
        cut = len(offsets)
        if cut - start > room:
            cut = max(range(start + 1, start + room + 1), key=lambda place: (quality[place], place))
            if quality[cut] == 0:
                blocking = next(p for p in phrases if p.begin < offsets[cut][0] < p.end)
                raise ValueError(f"phrase {shown(blocking.text)} is too long, a prompt holds {room} tokens; shorten it")
        begin, end = offsets[start][0], offsets[cut - 1][1]
        inside = {label: phrase for label, phrase in enumerate(phrases, 1) if begin <= phrase.begin < end}
        yield _Window(caption[begin:end], begin, inside)
        start = cut


def _cut_quality(caption: str, phrases: Sequence[NounPhrase], offsets: Sequence[Span]) -> list[int]:
    """How well the caption can be cut before each token: 0 not at all, up to 4 after a sentence."""
    quality = []
    for before, after in zip([(0, 0), *offsets], offsets, strict=False):
        last = caption[before[1] - 1 : before[1]]
        if any(phrase.begin < after[0] < phrase.end for phrase in phrases):
            quality.append(0)
        elif last and last in _SENTENCE_ENDS:
            quality.append(4)
        elif last and last in _CLAUSE_ENDS:
            quality.append(3)
        else:
            quality.append(2 if before[1] < after[0] else 1)
    return quality
