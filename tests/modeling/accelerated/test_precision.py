"""Names of precisions, and weights as operands."""

import pytest
import torch

from maskrcnn_benchmark.modeling.accelerated.precision import PRECISIONS, find_precision
from maskrcnn_benchmark.utils.precision_names import DEFAULT_PRECISION, PRECISION_NAMES


def test_names():
    assert set(PRECISIONS) == set(PRECISION_NAMES) and DEFAULT_PRECISION in PRECISIONS
    with pytest.raises(ValueError, match=r"'int8'.*bf16"):
        find_precision("int8")


def test_operands_of_tf32_have_ten_bits_of_mantissa():
    weight = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 10
    rounded = find_precision("tf32").operand(weight)
    assert not (rounded.view(torch.int32) & 0x1FFF).any()
    assert float(((rounded - weight) / weight).abs().max()) <= 2**-11
    truncated = (weight.view(torch.int32) & ~0x1FFF).view(torch.float32)
    assert float((rounded - weight).abs().mean()) < 0.6 * float((truncated - weight).abs().mean())


@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16"])
def test_other_operands_are_converted(name):
    weight = torch.nn.Parameter(torch.randn(3, 4))
    precision = find_precision(name)
    operand = precision.operand(weight)
    assert torch.equal(operand, weight.detach().to(precision.dtype)) and not operand.requires_grad
