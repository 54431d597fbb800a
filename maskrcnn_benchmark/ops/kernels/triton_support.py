"""Triton where it is installed: kernels are written either way, and launchers ask whether they can run.

With ``TRITON_INTERPRET=1`` in the environment before the first import the kernels run on CPU tensors, slowly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # platforms without Triton use the definitions in plain PyTorch
    triton = tl = None


def jit(kernel: Callable) -> Any:
    """`triton.jit`, or the function itself where Triton is missing (it is never called there).

    The file of the kernel needs ``from __future__ import annotations``, for `tl.constexpr` has no value there.
    """
    return kernel if triton is None else triton.jit(kernel)


def jit_for_sizes(*names: str) -> Callable[[Callable], Any]:
    """`jit` that compiles once for all values of the named integers; Triton would tell 1 and multiples of 16 apart."""
    return jit if triton is None else triton.jit(do_not_specialize=names)


def runs_kernels(tensor: Tensor) -> bool:
    """Whether Triton kernels can take the tensor: it is on a GPU, or Triton interprets."""
    if triton is None:
        return False
    return tensor.is_cuda or bool(triton.knobs.runtime.interpret)


def next_power_of_2(number: int) -> int:
    """The smallest power of 2 that is at least `number` (>= 1)."""
    return 1 << (number - 1).bit_length()


@jit
def as_operand(x: tl.tensor, dot: tl.constexpr) -> tl.tensor:
    """Numbers as operands of `tl.dot`: float32 for "tf32" is rounded, since tensor cores cut the last 13 bits off."""
    if dot == "tf32":
        if x.dtype == tl.float32:
            x = ((x.to(tl.int32, bitcast=True) + 4096) & -8192).to(tl.float32, bitcast=True)
    return x
