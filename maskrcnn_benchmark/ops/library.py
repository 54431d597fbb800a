"""The operator library ``torch.ops.maskrcnn_benchmark``: compiled kernels where there are any, plain PyTorch elsewhere.

``csrc/`` builds into ``maskrcnn_benchmark._C``, which brings the schema of every operator and its kernels for the CPU
and, if it was built with ``nvcc``, for CUDA. Where ``_C`` is missing the same schemas are defined here. Either way
every operator has a plain PyTorch implementation for the devices that have no kernel of its own, so everything runs
everywhere. Fake kernels, gradients and autocast are registered once, for both.

The environment variable ``GLIP_OPS=python`` hides ``_C``.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

import torch
from torch.autograd.function import once_differentiable

F = TypeVar("F", bound=Callable[..., Any])

NAMESPACE = "maskrcnn_benchmark"
DEVICES = ("cpu", "cuda")
COMPILED_MODULE = "maskrcnn_benchmark._C"
COMPILED = "csrc"
PLAIN = "PyTorch"

logger = logging.getLogger(__name__)


def _load() -> str | None:
    """Loads the compiled library; returns why there is none, or None if there is."""
    choice = os.environ.get("GLIP_OPS", "")
    if choice not in ("", "python"):
        raise ValueError(f"GLIP_OPS must be empty or 'python', got {choice!r}")
    if choice:
        return "GLIP_OPS=python hides the compiled library"
    try:
        importlib.import_module(COMPILED_MODULE)
    except ModuleNotFoundError:
        return (
            "the compiled library was not built: pip install --no-build-isolation . "
            "with a C++ compiler and the headers of Python (on Debian and Ubuntu: python3-dev)"
        )
    except ImportError as error:
        reason = f"the compiled library does not load: {error}"
        logger.warning("%s; operators run on their plain PyTorch implementations", reason)
        return reason
    return None


MISSING_REASON = _load()
LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")  # holds the registrations: they last as long as this object
SCHEMAS: dict[str, str] = {}  # operator -> the schema that the package expects


def define(schema: str, plain: Callable[..., Any]) -> torch._ops.OpOverload:
    """Makes an operator callable on every device.

    Args:
        schema: as in csrc/library.cpp, ``name(Tensor argument, ...) -> Tensor``.
        plain: takes the arguments in the order of the schema and computes the same with PyTorch, without autograd.

    Returns: ``torch.ops.maskrcnn_benchmark.<name>.default``, which is quicker to call than the name without overload.
    Raises: ImportError if the compiled library has the operator with another schema.
    """
    name = schema[: schema.index("(")]
    if not hasattr(getattr(torch.ops, NAMESPACE), name):
        LIBRARY.define(schema)
    overload: torch._ops.OpOverload = getattr(getattr(torch.ops, NAMESPACE), name).default
    if str(overload._schema) != str(torch._C.parse_schema(f"{NAMESPACE}::{schema}")):
        raise ImportError(
            f"the compiled operator library is of another version: it has {overload._schema}, needed is {schema}; "
            "build it again (make build), or set GLIP_OPS=python to do without"
        )
    SCHEMAS[name] = schema
    LIBRARY.impl(name, plain, "CompositeExplicitAutograd")
    return overload


def qualified(overload: torch._ops.OpOverload) -> str:
    """``maskrcnn_benchmark::<name>``, what the functions of ``torch.library`` take."""
    return overload._schema.name


def fake(overload: torch._ops.OpOverload) -> Callable[[F], F]:
    """Decorates the function that makes an empty result of the right shape and dtype, for tracing."""
    return torch.library.register_fake(qualified(overload), lib=LIBRARY)


def once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """`once_differentiable`, without what it costs where nobody asks for the graph of the gradient."""
    guarded = once_differentiable(backward)

    def run(ctx: Any, *grads: Any) -> Any:
        return guarded(ctx, *grads) if torch.is_grad_enabled() else backward(ctx, *grads)

    return run


def autograd(overload: torch._ops.OpOverload, backward: Callable[..., Any], save: Callable[..., None]) -> None:
    """Makes an operator differentiable, once.

    `torch.library.register_autograd` does the same with twice the overhead in Python, which is more than the kernels of
    a loss take.

    Args:
        backward: ``backward(ctx, *grads)`` returns a gradient or None for every argument.
        save: ``save(ctx, inputs, output)`` runs after the operator and keeps what `backward` needs.
    """

    def forward(ctx: Any, *inputs: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            output = overload(*inputs)
        save(ctx, inputs, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(once(backward))}
    function: Any = type(f"{overload._schema.name.rpartition(':')[2]}_autograd", (torch.autograd.Function,), methods)

    differentiate(overload, function)


def differentiate(overload: torch._ops.OpOverload, function: type[torch.autograd.Function]) -> None:
    """Makes an operator differentiable through a function that takes its arguments and computes what it does."""

    def dispatch(*inputs: Any) -> Any:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs):
            return function.apply(*inputs)
        with torch._C._AutoDispatchBelowAutograd():
            return overload(*inputs)

    LIBRARY.impl(overload, dispatch, "Autograd")


def autocast(overload: torch._ops.OpOverload, dtype: torch.dtype) -> None:
    """Casts floating arguments, float64 excepted, to a dtype wherever autocast is on."""
    for device in DEVICES:
        torch.library.register_autocast(qualified(overload), device, dtype, lib=LIBRARY)


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums are held in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Backend(NamedTuple):
    """Who computes an operator on a device, and why."""

    operator: str
    device: str
    served_by: str
    reason: str


def backends() -> list[Backend]:
    """One row for every operator and device, in the order in which `maskrcnn_benchmark.ops` defines them."""
    return [_backend(name, device) for name in SCHEMAS if not name.startswith("_") for device in DEVICES]


def describe() -> dict[str, str]:
    """Operator -> who serves it on which device and why, preceded by the state of the compiled library."""
    lines = {"operators": MISSING_REASON or str(sys.modules[COMPILED_MODULE].__file__)}
    for operator, rows in groupby(backends(), key=lambda row: row.operator):
        lines[operator] = ", ".join(f"{row.device}: {row.served_by} ({row.reason})" for row in rows)
    return lines


def _backend(name: str, device: str) -> Backend:
    if _has_kernel(name, device):
        return Backend(name, device, COMPILED, "compiled kernel")
    if MISSING_REASON:
        return Backend(name, device, PLAIN, "no compiled library")
    if any(_has_kernel(other, device) for other in SCHEMAS):
        return Backend(name, device, PLAIN, f"the compiled library has no {device} kernel of it")
    return Backend(name, device, PLAIN, f"the compiled library was built without {device}")


def _has_kernel(name: str, device: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{name}", device.upper())
