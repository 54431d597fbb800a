"""The numeric formats of accelerated inference."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

DotPrecision = Literal["tf32", "ieee"]


class Precision(NamedTuple):
    """How numbers are kept and multiplied.

    Attributes:
        name: one of `PRECISION_NAMES`.
        dtype: of activations and operands of matrix products; sums are float32 in every case.
        dot: how float32 operands are multiplied: rounded to TensorFloat-32 or exactly.
    """

    name: str
    dtype: torch.dtype
    dot: DotPrecision

    @property
    def is_half(self) -> bool:
        """Whether activations take 16 bits."""
        return self.dtype != torch.float32

    def operand(self, weight: Tensor) -> Tensor:
        """A weight as an operand of matrix products, rounded to what the tensor cores read of it.

        Of float32 numbers they drop the last 13 bits of the mantissa; rounding them away first halves the error.
        """
        weight = weight.detach().to(self.dtype)
        if self.name != "tf32":
            return weight
        bits = weight.contiguous().view(torch.int32)
        return ((bits + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)


PRECISIONS = {
    "bf16": Precision("bf16", torch.bfloat16, "tf32"),
    "fp16": Precision("fp16", torch.float16, "tf32"),
    "tf32": Precision("tf32", torch.float32, "tf32"),
    "fp32": Precision("fp32", torch.float32, "ieee"),
}


def find_precision(name: str) -> Precision:
    """The precision of a name. Raises: ValueError that lists the names for another."""
    if name not in PRECISIONS:
        raise ValueError(f"unknown precision {name!r}; known are {', '.join(PRECISIONS)}")
    return PRECISIONS[name]
