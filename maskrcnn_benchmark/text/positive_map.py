"""Maps from character spans to token positions: what links boxes, labels and phrases to columns of the token logits.

Token positions at or beyond `max_tokens` do not exist for the model and are left out of every map.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from maskrcnn_benchmark.text.spans import CharToToken, Span, token_range

MAX_TOKENS = 256
"""Length of the token axis of the published models."""

_EPS = 1e-6  # the original's guard against empty rows; it keeps normalised rows a little below one


def token_positions(
    encoding: CharToToken, spans: Iterable[Sequence[int]], max_tokens: int = MAX_TOKENS, batch_index: int = 0
) -> list[int]:
    """Token positions of the spans in ascending order, each once."""
    ranges = [token_range(encoding, begin, end, batch_index) for begin, end in spans]
    found = [range(first, min(last + 1, max_tokens)) for first, last in filter(None, ranges)]
    return list(found[0]) if len(found) == 1 else sorted(set().union(*found))


def create_positive_map(
    encoding: CharToToken,
    tokens_positive: Sequence[Sequence[Sequence[int]]],
    max_tokens: int = MAX_TOKENS,
    *,
    batch_index: int = 0,
) -> Tensor:
    """Weights of the tokens for each box or phrase.

    Args:
        encoding: the tokenised caption.
        tokens_positive: for each of P boxes or phrases its character spans.
    Returns: (P, max_tokens) float32; the n tokens of a row weigh 1 / (n + 1e-6), a row without tokens is zero.
    """
    positive_map = torch.zeros(len(tokens_positive), max_tokens)
    tokens = [token_positions(encoding, spans, max_tokens, batch_index) for spans in tokens_positive]
    rows = [row for row, positions in enumerate(tokens) for _ in positions]
    positive_map[rows, [position for positions in tokens for position in positions]] = 1.0
    return positive_map / (positive_map.sum(-1, keepdim=True) + _EPS)


def label_to_tokens(positive_map: Tensor, plus: int = 1) -> dict[int, list[int]]:
    """(P, T) weights -> {row + plus: positions of its non-zero columns}; a row of zeros maps to an empty list."""
    return {row + plus: weights.nonzero().flatten().tolist() for row, weights in enumerate(positive_map)}


def create_greenlight_map(
    encoding: CharToToken,
    spans: Sequence[Sequence[int]],
    max_tokens: int = MAX_TOKENS,
    *,
    batch_index: int = 0,
) -> Tensor:
    """(max_tokens,) float32 that steers masked language modelling.

    1: a token of one of the spans, may be masked and is scored; 0: may be masked, is not scored; -1 everywhere when the
    sentinel (-1, -1, -1), or any other triple, is among the spans: nothing may be masked.
    """
    if any(len(span) == 3 for span in spans):
        return torch.full((max_tokens,), -1.0)
    greenlight_map = torch.zeros(max_tokens)
    greenlight_map[token_positions(encoding, spans, max_tokens, batch_index)] = 1.0
    return greenlight_map


def od_label_map(
    encoding: CharToToken,
    label_to_span: Mapping[int, Span],
    max_tokens: int = MAX_TOKENS,
    *,
    batch_index: int = 0,
) -> Tensor:
    """(max_tokens,) float32: the detection label whose name holds the token, -1 where there is none."""
    labels = [-1.0] * max_tokens
    for label, span in label_to_span.items():
        for position in token_positions(encoding, [span], max_tokens, batch_index):
            labels[position] = float(label)
    return torch.tensor(labels)
