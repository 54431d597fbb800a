"""What every operator of the library has to pass, for the tests in tests/ops."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from maskrcnn_benchmark.ops import library

LOW_PRECISIONS = [torch.float32, torch.float16, torch.bfloat16]


def skip_without_kernel(operator: str, device: torch.device) -> None:
    """Skips a test of a compiled kernel where a plain implementation serves the operator."""
    row = next(row for row in library.backends() if (row.operator, row.device) == (operator, device.type))
    if row.served_by != library.COMPILED:
        pytest.skip(f"{operator} on {row.device}: {row.reason}")


def compile_whole(function: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    """Compiles without graph breaks; on the CPU without code generation, which takes most of a minute."""
    return torch.compile(function, fullgraph=True, backend="inductor" if device.type == "cuda" else "aot_eager")


def largest_error(actual: Tensor, exact: Tensor) -> float:
    return (actual.double() - exact.double()).abs().max().item()


def assert_as_precise(actual: Tensor, plain: Tensor, exact: Tensor) -> None:
    """The error against float64 is at most twice that of plain PyTorch in the same dtype, or its last digit."""
    digit = torch.finfo(plain.dtype).eps * exact.abs().max().item()
    assert largest_error(actual, exact) <= max(2 * largest_error(plain, exact), digit)


def assert_replays(function: Callable[..., Tensor], inputs: list[Tensor], fresh: list[Tensor]) -> None:
    """A captured CUDA graph computes on new input what the function computes without a graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        function(*inputs)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = function(*inputs)
    for old, new in zip(inputs, fresh, strict=True):
        old.copy_(new)
    graph.replay()
    torch.testing.assert_close(output, function(*fresh))
