"""Versions of everything that matters in a bug report."""

import PIL
from torch.utils.collect_env import get_pretty_env_info


def collect_env_info() -> str:
    """PyTorch's description of the machine, then Pillow's version. Takes seconds: it asks other programs."""
    return f"{get_pretty_env_info()}\n        Pillow ({PIL.__version__})"
