"""Versions of everything that matters in a bug report."""

import PIL
from torch.utils.collect_env import get_pretty_env_info

from maskrcnn_benchmark.ops import library


def collect_env_info() -> str:
    """PyTorch's description of the machine, Pillow's version, and who serves the operators.

    Takes seconds: it asks other programs.
    """
    operators = "\n".join(f"{name}: {value}" for name, value in library.describe().items())
    return f"{get_pretty_env_info()}\n        Pillow ({PIL.__version__})\n\n{operators}"
