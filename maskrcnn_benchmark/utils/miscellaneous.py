"""Small file helpers."""

import os
from pathlib import Path

from yacs.config import CfgNode

from maskrcnn_benchmark.utils import comm


def mkdir(path: str | os.PathLike[str]) -> None:
    """Create a folder and those above it; one that exists is fine."""
    Path(path).mkdir(parents=True, exist_ok=True)


def save_config(cfg: CfgNode, path: str | os.PathLike[str]) -> None:
    """Write a configuration as YAML, from the main process."""
    if comm.is_main_process():
        Path(path).write_text(cfg.dump(), encoding="utf-8")
