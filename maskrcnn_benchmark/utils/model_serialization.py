"""Permissive loading: a stored key fills every model key that ends with it, at a dot boundary.

This is how maskrcnn-benchmark loads weights whose names differ from the model's by a prefix. It reports nothing but
log lines, so `weight_conversion.load_weights` is the loader of choice; this one is for files that fit only partly.
"""

import logging
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

logger = logging.getLogger(__name__)


def strip_prefix_if_present(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Remove ``prefix`` from the keys, once, if all of them start with it; otherwise return an unchanged copy."""
    if state_dict and all(key.startswith(prefix) for key in state_dict):
        return {key[len(prefix) :]: value for key, value in state_dict.items()}
    return dict(state_dict)


def match_suffixes(model_keys: Iterable[str], loaded_keys: Iterable[str]) -> dict[str, str]:
    """Map each model key to the longest loaded key that equals it or one of its dotted suffixes.

    ``backbone.body.norm.weight`` is offered ``backbone.body.norm.weight``, ``body.norm.weight``, ``norm.weight`` and
    ``weight``, in this order; model keys for which none exists are left out.
    """
    known = set(loaded_keys)
    matches = {}
    for key in model_keys:
        suffix = key
        while suffix not in known and "." in suffix:
            suffix = suffix.partition(".")[2]
        if suffix in known:
            matches[key] = suffix
    return matches


def align_and_update_state_dicts(model_state_dict: dict[str, Tensor], loaded_state_dict: Mapping[str, Tensor]) -> int:
    """Replace the entries of ``model_state_dict`` by their match in ``loaded_state_dict``; return how many were.

    Entries without a match, or whose match has another shape, keep their value and are named in a log line.
    """
    matches = match_suffixes(model_state_dict, loaded_state_dict)
    replaced = 0
    for key, loaded_key in sorted(matches.items()):
        wanted, found = tuple(model_state_dict[key].shape), tuple(loaded_state_dict[loaded_key].shape)
        if wanted != found:
            logger.warning("Skipped %s: the model has shape %s, the file %s (%s)", key, wanted, found, loaded_key)
            continue
        model_state_dict[key] = loaded_state_dict[loaded_key]
        replaced += 1
        logger.debug("Loaded %s from %s of shape %s", key, loaded_key, found)
    unmatched = sorted(model_state_dict.keys() - matches.keys())
    if unmatched:
        logger.warning("%d of %d entries have no stored value: %s", len(unmatched), len(model_state_dict), unmatched)
    return replaced


def load_state_dict(model: nn.Module, loaded_state_dict: Mapping[str, Tensor]) -> None:
    """Load what fits by suffix, leave the rest as it is; a ``module.`` around all stored keys is ignored.

    Raises: ValueError if not a single entry fits.
    """
    model_state_dict = model.state_dict()
    stored = strip_prefix_if_present(loaded_state_dict, "module.")
    if not align_and_update_state_dicts(model_state_dict, stored) and model_state_dict:
        raise ValueError(
            f"none of the {len(stored)} stored entries (e.g. {next(iter(stored), None)!r}) fits one of the model's "
            f"{len(model_state_dict)} (e.g. {next(iter(model_state_dict))!r})"
        )
    model.load_state_dict(model_state_dict)
