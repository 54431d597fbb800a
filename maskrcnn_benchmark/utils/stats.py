"""Cost of a model: multiply-accumulate operations of one forward pass, and parameters."""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from maskrcnn_benchmark.ops.library import NAMESPACE

Shape = Sequence[int]


def _deform_conv2d_flop(
    input: Shape, offset: Shape, mask: Shape, weight: Shape, *args: Any, out_shape: Shape, **kwargs: Any
) -> int:
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


def _deform_conv2d_backward_flop(
    grad: Shape, input: Shape, offset: Shape, mask: Shape, weight: Shape, *args: Any, **kwargs: Any
) -> int:
    needs_input, needs_coordinates, needs_parameters = args[-3:]
    products = int(needs_input or needs_coordinates) + int(needs_parameters)  # of the sampled columns, of the weights
    return 2 * products * math.prod(grad) * math.prod(weight[1:])


def _attention_flop(query: Shape, key: Shape, value: Shape, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward_flop(grad: Shape, query: Shape, key: Shape, value: Shape, *args: Any, **kwargs: Any) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


def _flop_counter() -> FlopCounterMode:
    """Counts the operators that PyTorch knows, its attention on a CPU, and deformable convolution but for sampling."""
    operators = getattr(torch.ops, NAMESPACE)
    formulas = {
        operators.deform_conv2d: _deform_conv2d_flop,
        operators._deform_conv2d_backward: _deform_conv2d_backward_flop,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flop,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flop,
    }
    return FlopCounterMode(display=False, custom_mapping=formulas)


def count_macs(run: Callable[[], object]) -> float:
    """Multiply-accumulates of a call, counted as in `get_model_complexity_info`."""
    with _flop_counter() as counter:
        run()
    return counter.get_total_flops() / 2


def get_model_complexity_info(
    model: nn.Module,
    input_res: tuple[int, ...],
    print_per_layer_stat: bool = True,
    as_strings: bool = True,
    input_constructor: Callable[[tuple[int, ...]], dict[str, Any]] | None = None,
    ost: TextIO = sys.stdout,
) -> tuple[str, str] | tuple[float, int]:
    """Run ``model`` once and return its multiply-accumulates and its number of parameters.

    Matrix products, convolutions (deformable ones, too) and attention are counted, half of PyTorch's floating-point
    operations; elementwise work and operators without a formula are not.

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
        with torch.no_grad(), _flop_counter() as counter:
            model(*args, **kwargs)
    finally:
        model.train(was_training)
    macs = counter.get_total_flops() / 2
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if print_per_layer_stat:
        ost.write(_share_table(counter.get_flop_counts(), macs))
    if as_strings:
        return with_unit(macs, "Mac"), with_unit(parameters, "").rstrip()
    return macs, parameters


def _share_table(flops: dict[str, dict[Any, int]], total_macs: float) -> str:
    """One line for every submodule that was entered: its multiply-accumulates, their share of all, and its name."""
    lines = []
    for name, by_operator in flops.items():
        macs = sum(by_operator.values()) / 2
        lines.append(f"{with_unit(macs, 'Mac'):>14}  {macs / max(total_macs, 1):7.2%}  {name}\n")
    return "".join(lines)


def with_unit(value: float, unit: str) -> str:
    """1234567, "Mac" -> "1.23 MMac"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if value >= size:
            return f"{value / size:.2f} {letter}{unit}"
    return f"{value:.0f} {unit}"
