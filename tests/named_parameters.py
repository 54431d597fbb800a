"""A module that has nothing but parameters of given names."""

from collections.abc import Iterable

import torch
from torch import nn


class NamedParameters(nn.Module):
    """Holds one scalar parameter, 0, for every dotted name."""

    def __init__(self, names: Iterable[str], device: str = "cpu"):
        super().__init__()
        for name in names:
            node: nn.Module = self
            *path, leaf = name.split(".")
            for part in path:
                if part not in dict(node.named_children()):
                    node.add_module(part, nn.Module())
                node = node.get_submodule(part)
            node.register_parameter(leaf, nn.Parameter(torch.zeros(1, device=device)))
