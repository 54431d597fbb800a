"""Comparison of what checkpoints hold."""

from collections.abc import Mapping

import torch


def assert_equal(one, other, place: str = "checkpoint") -> None:
    """Equal to the bit, whatever the nesting."""
    assert type(one) is type(other), place
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    elif isinstance(one, Mapping):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_equal(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{place}[{number}]")
    else:
        assert one == other, place
