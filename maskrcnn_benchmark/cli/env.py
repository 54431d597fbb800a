"""``glip env``: what to put into a bug report."""

import argparse
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from maskrcnn_benchmark import __version__
from maskrcnn_benchmark.cli.console import OK, Subparsers, write

PACKAGES = (
    *("torch", "torchvision", "triton", "transformers", "tokenizers", "safetensors", "timm"),
    *("numpy", "pillow", "nltk"),
)


def add_parser(subparsers: Subparsers) -> None:
    subparsers.add_parser(
        "env", help="show the versions and devices in use", description="Shows what belongs in a bug report."
    )


def run(args: argparse.Namespace) -> int:
    """Prints one line for each fact."""
    found = facts()
    width = max(map(len, found)) + 2
    for name, value in found.items():
        write(f"{name + ':':<{width}}{value}")
    return OK


def facts() -> dict[str, str]:
    """Name -> value, in the order to be shown."""
    import torch

    from maskrcnn_benchmark.engine.model_files import ASSETS, EMBEDDED
    from maskrcnn_benchmark.ops import library

    found = {
        "glip": f"{__version__} in {Path(__file__).resolve().parents[1]}",
        "python": f"{sys.version.split()[0]} in {sys.executable}",
        "platform": platform.platform(),
        **{name: _version(name) for name in PACKAGES},
        "cuda": f"{torch.version.cuda or 'this PyTorch is built without it'}",
        "threads": str(torch.get_num_threads()),
    }
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    for name in EMBEDDED:
        found[name] = "present" if (ASSETS / name).is_dir() else "missing from this installation"
    return {**found, **library.describe()}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
