"""From scores of tokens to scores of classes: each class is made of some tokens of the caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from operator import index
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

AGGREGATIONS = ("MEAN", "MAX", "POWER", "ONEHOT")

PositiveMap = Mapping[int, Sequence[int] | int]  # label (counted from 1) -> its token positions


class TokenMap(NamedTuple):
    """Which tokens make which class. S is B if every image has a map of its own, 1 if they share one.

    tokens: (S, C, M) int64, the positions of up to M tokens; 0 where `is_token` is not set.
    is_token: (S, C, M) bool. A class without any token scores 0.
    labels: (S, C) int64, the label of each column.
    """

    tokens: Tensor
    is_token: Tensor
    labels: Tensor


def check_aggregation(aggregation: str) -> str:
    """Returns a known way of aggregation; ValueError lists them for another."""
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"unknown score aggregation {aggregation!r}; known are {', '.join(AGGREGATIONS)}")
    return aggregation


def build_token_map(
    positive_map: PositiveMap | Sequence[PositiveMap] | None,
    num_tokens: int,
    *,
    aggregation: str = "MEAN",
    device: torch.device | str = "cpu",
) -> TokenMap:
    """Puts positive maps into tensors, with one column for every label that occurs, in ascending order.

    Args:
        positive_map: label -> token positions, for all images, or one such dict per image. None is an empty dict.
            Positions are a sequence, an array, a tensor or a single number; labels without any are left out.
        num_tokens: T, number of text positions of the scores.
        aggregation: with "ONEHOT" only the number of labels of a map counts: column j is token j, its label j + 1.
        device: of the result.

    Raises: ValueError for a label below 1, a position outside [0, T), or what is no such dict.
    """
    check_aggregation(aggregation)
    maps = split_maps(positive_map)
    rows = [label_rows(one, num_tokens, aggregation) for one in maps]
    columns = max((len(row) for row in rows), default=0)
    width = max((len(tokens) for row in rows for _, tokens in row), default=1)
    # One transfer for everything: the label in front of its positions, -1 where there is none.
    packed = torch.full((len(rows), columns, 1 + width), -1, dtype=torch.int64)
    for s, row in enumerate(rows):
        for c, (label, tokens) in enumerate(row):
            packed[s, c, : 1 + len(tokens)] = torch.tensor([label, *tokens])
    packed = to_device(packed, device)
    tokens = packed[..., 1:]
    return TokenMap(tokens.clamp(min=0), tokens >= 0, packed[..., 0].clamp(min=0))


def split_maps(positive_map: PositiveMap | Sequence[PositiveMap | None] | None) -> list[PositiveMap]:
    """The map that all images share, or those of the images, as a list. Raises: ValueError for anything else."""
    maps = [positive_map] if positive_map is None or isinstance(positive_map, Mapping) else positive_map
    if not isinstance(maps, list | tuple) or not all(one is None or isinstance(one, Mapping) for one in maps):
        raise ValueError(
            "at inference positive_map must be a dict of labels and their token positions, or a list of such dicts, "
            f"one for each image; got {type(positive_map).__name__}"
        )
    return [one or {} for one in maps]


def token_positions(label: object, positions: object) -> list[int]:
    """Token positions of a class. Raises: ValueError that names the label if they are no integers."""
    if isinstance(positions, Tensor | np.ndarray):
        positions = positions.tolist()
    try:
        return [index(token) for token in ([positions] if isinstance(positions, Integral) else positions)]
    except TypeError as error:
        raise ValueError(f"label {label!r} must have integers as token positions, got {positions!r}") from error


def tokens_named(positive_map: PositiveMap | Sequence[PositiveMap] | TokenMap | Tensor | None) -> int:
    """One more than the last token position of an inference map; 0 for a training map or none."""
    if isinstance(positive_map, TokenMap):
        return int(positive_map.tokens.max()) + 1 if positive_map.tokens.numel() else 0
    if positive_map is None or isinstance(positive_map, Tensor):
        return 0
    maps = split_maps(positive_map)
    named = (token_positions(label, tokens) for one in maps for label, tokens in one.items())
    return max((token + 1 for tokens in named for token in tokens), default=0)


def aggregate_token_scores(token_scores: Tensor, token_map: TokenMap, aggregation: str) -> Tensor:
    """Scores of the classes at every location.

    Args:
        token_scores: (B, N, T) probabilities.
        token_map: the classes.
        aggregation: "MEAN" of the tokens of a class, their "MAX", or "POWER", the geometric mean. "ONEHOT" needs no
            more than a mean, its classes having one token each.

    Returns: (B, N, C) in float32; 0 for a class without tokens.
    """
    token_scores = token_scores.float()
    with torch.autocast(token_scores.device.type, enabled=False):
        if check_aggregation(aggregation) == "MAX":
            return _maximum(token_scores, token_map)
        counts = token_map.is_token.sum(-1)[:, None]  # (S, 1, C)
        matrix = token_matrix(token_map, token_scores.shape[-1])
        if aggregation == "POWER":
            mean_of_logs = token_scores.log().clamp(min=torch.finfo(torch.float32).min) @ matrix / counts.clamp(min=1)
            return mean_of_logs.exp().masked_fill(counts == 0, 0.0)
        return token_scores @ matrix / counts.clamp(min=1)


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Sends a small CPU tensor without waiting for work that is queued on the device."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def label_rows(positive_map: PositiveMap, num_tokens: int, aggregation: str) -> list[tuple[int, list[int]]]:
    """The labels of a map with their token positions, in ascending order; arguments as in `build_token_map`."""
    if aggregation == "ONEHOT":
        return [(token + 1, [token]) for token in range(min(len(positive_map), num_tokens))]
    rows = []
    for label, positions in positive_map.items():
        if not isinstance(label, Integral):
            raise ValueError(f"labels of a positive map must be integers, got {label!r}")
        if label < 1:
            raise ValueError(f"labels of a positive map are counted from 1, got {label}")
        tokens = token_positions(label, positions)
        for token in tokens:
            if not 0 <= token < num_tokens:
                raise ValueError(f"label {label} has token position {token}, but the text has {num_tokens} positions")
        if tokens:
            rows.append((int(label), tokens))
    return sorted(rows)


def token_matrix(token_map: TokenMap, num_tokens: int) -> Tensor:
    """(S, T, C) float32: how often a token occurs in a class."""
    tokens, is_token, _ = token_map
    matrix = torch.zeros(*tokens.shape[:2], num_tokens, device=tokens.device)
    return matrix.scatter_add_(2, tokens, is_token.float()).transpose(1, 2)


def _maximum(token_scores: Tensor, token_map: TokenMap) -> Tensor:
    tokens, is_token, _ = token_map
    shape = (len(token_scores), token_scores.shape[1], *tokens.shape[1:])  # (B, N, C, M)
    index = tokens.flatten(1)[:, None].expand(shape[0], shape[1], -1)
    gathered = token_scores.gather(2, index).unflatten(2, tokens.shape[1:])
    return gathered.masked_fill(~is_token[:, None], 0.0).amax(-1)
