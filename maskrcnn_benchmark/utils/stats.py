"""Cost of a model: multiply-accumulate operations of one forward pass, and parameters."""

import sys
from collections.abc import Callable
from typing import Any, TextIO

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def get_model_complexity_info(
    model: nn.Module,
    input_res: tuple[int, ...],
    print_per_layer_stat: bool = True,
    as_strings: bool = True,
    input_constructor: Callable[[tuple[int, ...]], dict[str, Any]] | None = None,
    ost: TextIO = sys.stdout,
) -> tuple[str, str] | tuple[float, int]:
    """Run ``model`` once and return its multiply-accumulates and its number of parameters.

    Matrix products, convolutions and attention are counted, half of PyTorch's floating-point operations; elementwise
    work and operators without a formula are not.

    Args:
        input_res: shape of the input without the batch, e.g. (3, 800, 1344); the batch has one picture of ones.
        print_per_layer_stat: write a table of the share of every submodule to ``ost``.
        as_strings: return texts such as ("12.35 GMac", "231.78 M") instead of numbers.
        input_constructor: makes the keyword arguments of the model from ``input_res``.
    """
    reference = next(model.parameters(), torch.zeros(()))
    args: tuple[Tensor, ...] = ()
    kwargs: dict[str, Any] = {}
    if input_constructor is None:
        args = (torch.ones((1, *input_res), dtype=reference.dtype, device=reference.device),)
    else:
        kwargs = input_constructor(input_res)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(*args, **kwargs)
    finally:
        model.train(was_training)
    macs = counter.get_total_flops() / 2
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if print_per_layer_stat:
        ost.write(_share_table(counter.get_flop_counts(), macs))
    if as_strings:
        return _with_unit(macs, "Mac"), _with_unit(parameters, "").rstrip()
    return macs, parameters


def _share_table(flops: dict[str, dict[Any, int]], total_macs: float) -> str:
    """One line for every submodule that was entered: its multiply-accumulates, their share of all, and its name."""
    lines = []
    for name, by_operator in flops.items():
        macs = sum(by_operator.values()) / 2
        lines.append(f"{_with_unit(macs, 'Mac'):>14}  {macs / max(total_macs, 1):7.2%}  {name}\n")
    return "".join(lines)


def _with_unit(value: float, unit: str) -> str:
    """1234567, "Mac" -> "1.23 MMac"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if value >= size:
            return f"{value / size:.2f} {letter}{unit}"
    return f"{value:.0f} {unit}"
