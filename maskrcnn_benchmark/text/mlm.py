"""Token corruption for masked language modelling: of 15 % of the tokens, 80 % are masked and 10 % replaced."""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
from torch import Tensor

IGNORED = -100
"""Label of a position that is not scored."""

PROBABILITY = 0.15
_MASKED = 0.8  # share of the chosen tokens that become the mask token
_MASKED_OR_REPLACED = 0.9  # the rest beyond this share stays as it is, but is scored


class CorruptedTokens(NamedTuple):
    """input_ids (B, T) with tokens masked or replaced; labels (B, T), the original token where one is to be guessed."""

    input_ids: Tensor
    labels: Tensor


def corrupt_tokens(
    input_ids: Tensor,
    *,
    mask_id: int,
    pad_id: int,
    vocabulary_ids: Tensor,
    greenlight_map: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> CorruptedTokens:
    """Corrupts a batch of captions; the input is not changed.

    Args:
        input_ids: (B, T) integers; special tokens can be chosen, padding cannot.
        mask_id, pad_id: ids of the mask token and of padding.
        vocabulary_ids: (V,) ids that a replacement is drawn from.
        greenlight_map: (B, T) or wider; -1: never touched, 0: may change, is not scored, 1: may change, is scored.
        generator: source of randomness on the device of `input_ids`; the global one by default.
    """
    device = input_ids.device
    draws = torch.rand(input_ids.shape, generator=generator, device=device)
    picks = torch.randint(len(vocabulary_ids), input_ids.shape, generator=generator, device=device)
    replacements = vocabulary_ids.to(device)[picks]
    return _corrupt(input_ids, draws, replacements, mask_id, pad_id, _fitting(greenlight_map, input_ids))


def corrupt_tokens_in_order(
    input_ids: Tensor,
    *,
    mask_id: int,
    pad_id: int,
    vocabulary_ids: Tensor,
    greenlight_map: Tensor | None = None,
    rng: random.Random,
) -> CorruptedTokens:
    """`corrupt_tokens` that consumes `rng` exactly as the original does: one draw for every position, row by row, and
    one choice for every replacement.  It loops over the tokens in Python; for reproducing recorded runs only.
    """
    greenlight_map = _fitting(greenlight_map, input_ids)
    allowed = _allowed(input_ids, pad_id, greenlight_map).flatten().tolist()
    vocabulary = vocabulary_ids.tolist()
    draws, replacements = [], []
    for is_allowed in allowed:
        draw = rng.random()
        is_replaced = is_allowed and draw < PROBABILITY and _MASKED <= draw / PROBABILITY < _MASKED_OR_REPLACED
        draws.append(draw)
        replacements.append(rng.choice(vocabulary) if is_replaced else 0)
    shape = input_ids.shape
    return _corrupt(
        input_ids,
        torch.tensor(draws, dtype=torch.float64).view(shape).to(input_ids.device),
        torch.tensor(replacements).view(shape).to(input_ids.device),
        mask_id,
        pad_id,
        greenlight_map,
    )


def _corrupt(
    input_ids: Tensor, draws: Tensor, replacements: Tensor, mask_id: int, pad_id: int, greenlight_map: Tensor | None
) -> CorruptedTokens:
    """Draws in [0, 1) and replacement ids, both (B, T), decide the fate of every token."""
    chosen = _allowed(input_ids, pad_id, greenlight_map) & (draws < PROBABILITY)
    fate = draws / PROBABILITY
    corrupted = torch.where(chosen & (fate < _MASKED), mask_id, input_ids)
    replaced = chosen & (fate >= _MASKED) & (fate < _MASKED_OR_REPLACED)
    corrupted = torch.where(replaced, replacements.to(input_ids.dtype), corrupted)
    scored = chosen if greenlight_map is None else chosen & (greenlight_map == 1)
    return CorruptedTokens(corrupted, torch.where(scored, input_ids, IGNORED))


def _allowed(input_ids: Tensor, pad_id: int, greenlight_map: Tensor | None) -> Tensor:
    allowed = input_ids != pad_id
    return allowed if greenlight_map is None else allowed & (greenlight_map != -1)


def _fitting(greenlight_map: Tensor | None, input_ids: Tensor) -> Tensor | None:
    """The map cut to the tokens there are, on their device."""
    if greenlight_map is None:
        return None
    batch, length = input_ids.shape
    given = tuple(greenlight_map.shape)
    if given[0] != batch or given[1] < length:
        raise ValueError(f"the greenlight map of shape {given} does not cover tokens of shape {(batch, length)}")
    return greenlight_map[:, :length].to(input_ids.device)
