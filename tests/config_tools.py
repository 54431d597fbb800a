"""Comparing configuration trees with recorded values."""

import json
import lzma
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import golden_tools

REPOSITORY = Path(__file__).resolve().parents[1]
OPEN_GROUPS = ("DATASETS.REGISTER", "MODEL.BACKBONE.LAYER_SEARCH", "MODEL.MULTITASK", "MODEL.SPEC")


def flatten(node: Mapping, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value of every leaf; open groups are one leaf, tuples are lists, as in the recordings."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in OPEN_GROUPS:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = json.loads(json.dumps(value))
    return flat


def recorded_deltas() -> dict[str, dict[str, Any]]:
    """Per published YAML file, the values that differ from the defaults."""
    return json.loads(lzma.decompress(golden_tools.golden_path("config/all_files_delta.json.xz").read_bytes()))


def recorded_types() -> dict[str, dict[str, Any]]:
    """Dotted name -> {"type", "value"} of every default."""
    return json.loads(golden_tools.golden_path("config/defaults_types.json").read_text(encoding="utf-8"))
