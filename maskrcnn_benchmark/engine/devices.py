"""Turns the name of a device into one that exists."""

import torch


def resolve_device(name: str | torch.device | None) -> torch.device:
    """The device called ``name``; None means the first GPU, or the CPU where there is none.

    Raises: ValueError naming the device when PyTorch does not know it or this machine does not have it.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = parse_device(name)
    if device.type == "cpu" and device.index in (None, 0):
        return device
    if device.type == "cuda" and (device.index or 0) < torch.cuda.device_count():
        return device
    if device.type == "mps" and torch.backends.mps.is_available():
        return device
    raise ValueError(f"device '{name}' does not exist here; {_available()}")


def parse_device(name: str | torch.device) -> torch.device:
    """The device called ``name``, whether this machine has it or not. Raises: ValueError for a name of no device."""
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device '{name}' is unknown; {_available()}") from error


def _available() -> str:
    names = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names.append("mps")
    return f"this machine has {', '.join(names)}"
