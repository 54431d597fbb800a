"""The numeric formats of accelerated inference."""

from typing import Literal, NamedTuple

import torch

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
