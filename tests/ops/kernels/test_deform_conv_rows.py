"""The deformable convolution of channels-last rows against the operator in float64.

It has no form without Triton: `test_interpreted` runs this file on the CPU, other runs need a GPU.
"""

from functools import cache

import pytest
import torch
from interpreted import IS_INTERPRETING, check_interpreted
from torch import Tensor

from maskrcnn_benchmark.ops import deform_conv2d
from maskrcnn_benchmark.ops.kernels.deform_columns import deform_columns
from maskrcnn_benchmark.ops.kernels.deform_conv import (
    TUNINGS,
    ConvTask,
    Tuning,
    block_table,
    deform_conv_rows,
    int_table,
    rows_of_weight,
)

SMALL = Tuning(block_rows=32, block_channels=16, chunk=16, num_warps=4, num_stages=2, is_direct=False)
TOLERANCES = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.fixture
def kernel_device(device: torch.device) -> torch.device:
    if device.type == "cpu" and not IS_INTERPRETING:
        pytest.skip("needs a GPU or interpreted kernels")
    return device


@pytest.mark.slow
def test_interpreted():
    check_interpreted(__file__)


def make_inputs(device, size=(7, 9), out_size=(7, 9), channels=16, out_channels=32, kernel=(3, 3), spread=2.0):
    torch.manual_seed(0)
    taps = kernel[0] * kernel[1]
    x = torch.randn(2, channels, *size).contiguous(memory_format=torch.channels_last)
    offset = torch.randn(2, 2 * taps, *out_size) * spread
    mask = torch.rand(2, taps, *out_size)
    weight, bias = torch.randn(out_channels, channels, *kernel) / (channels * taps) ** 0.5, torch.randn(out_channels)
    return [tensor.to(device) for tensor in (x, offset, weight, bias, mask)]


def expected(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, **geometry) -> Tensor:
    wide = [None if tensor is None else tensor.double() for tensor in (x, offset, weight, bias, mask)]
    return deform_conv2d(*wide[:4], mask=wide[4], **geometry)


@cache  # a graph cannot copy them to the device
def tables(size, out_size, stride, block_rows, device) -> tuple[Tensor, Tensor]:
    tasks = int_table([ConvTask(0, *size, 0, *out_size, stride, 0, 0, 0)], device)
    return tasks, int_table(block_table([out_size[0] * out_size[1]], block_rows), device)


def deform_conv2d_channels_last(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    dot: str = "tf32",
    tuning: Tuning | None = None,
) -> Tensor:
    """`ops.deform_conv2d` for one group, one offset group and channels-last maps, as one task of the kernel."""
    batch, _, height, width = input.shape
    out_size = (offset.shape[2], offset.shape[3])
    tuning = tuning or TUNINGS[input.dtype]
    tasks, blocks = tables((height, width), out_size, stride, tuning.block_rows, input.device)
    out = input.new_empty(batch, out_size[0] * out_size[1], len(weight))
    deform_conv_rows(
        input.permute(0, 2, 3, 1).flatten(1, 2),
        offset.flatten(1).contiguous(),
        None if mask is None else mask.flatten(1).contiguous(),
        rows_of_weight(weight, input.dtype)[None],
        None if bias is None else bias.detach().float()[None],
        tasks,
        blocks,
        out,
        tuning=tuning,
        dot=dot,
        taps=(weight.shape[2], weight.shape[3]),
        padding=padding,
        dilation=dilation,
    )
    return out.unflatten(1, out_size).permute(0, 3, 1, 2)


def close(found: Tensor, wanted: Tensor) -> None:
    tolerance = TOLERANCES[found.dtype]
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_equals_the_operator(kernel_device, dtype):
    if kernel_device.type == "cpu" and dtype == torch.bfloat16:
        pytest.skip("the interpreter multiplies bfloat16 as integers")
    x, offset, weight, bias, mask = make_inputs(kernel_device)
    x, weight = x.to(dtype), weight.to(dtype)
    found = deform_conv2d_channels_last(x, offset, weight, bias, mask=mask, padding=1, dot="ieee", tuning=SMALL)
    assert found.is_contiguous(memory_format=torch.channels_last)
    close(found, expected(x, offset, weight, bias, mask, padding=1))


@pytest.mark.parametrize(
    "stride, padding, dilation, kernel, out_size",
    [(2, 1, 1, (3, 3), (4, 5)), (1, 2, 2, (3, 3), (7, 9)), (1, 0, 1, (1, 3), (7, 7))],
)
def test_geometries_without_mask_and_bias(kernel_device, stride, padding, dilation, kernel, out_size):
    x, offset, weight, _, _ = make_inputs(kernel_device, out_size=out_size, kernel=kernel)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    found = deform_conv2d_channels_last(x, offset, weight, dot="ieee", tuning=SMALL, **geometry)
    close(found, expected(x, offset, weight, None, None, **geometry))


def test_offsets_that_are_not_finite_sample_zero(kernel_device):
    x, offset, weight, bias, mask = make_inputs(kernel_device)
    offset[0, :4, 2, 3] = torch.tensor([float("nan"), 0.0, float("inf"), -float("inf")])
    offset[1, 5, 1, 1] = 3e38
    found = deform_conv2d_channels_last(x, offset, weight, bias, mask=mask, padding=1, dot="ieee", tuning=SMALL)
    far = torch.where(offset.isfinite() & (offset.abs() < 1e6), offset, 1e6)
    close(found, expected(x, far, weight, bias, mask, padding=1))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "tuning",
    [
        Tuning(64, 32, 64, 4, 2, is_direct=False),
        Tuning(64, 32, 64, 4, 2, is_direct=True),
        Tuning(128, 32, 64, 8, 2, is_overlapped=True),
        Tuning(128, 32, 64, 16, 2, is_overlapped=True),
    ],
    ids=["loads", "direct", "overlapped", "16 warps"],
)
def test_full_width_on_gpu(dtype, tuning):
    x, offset, weight, bias, mask = make_inputs("cuda", (25, 43), (25, 43), channels=256, out_channels=256)
    x, weight = x.to(dtype), weight.to(dtype)
    found = deform_conv2d_channels_last(x, offset, weight, bias, mask=mask, padding=1, dot="tf32", tuning=tuning)
    tolerance = max(TOLERANCES[dtype], 5e-3)
    wanted = expected(x, offset, weight, bias, mask, padding=1)
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.gpu
def test_graph_replay_reads_new_inputs():
    x, offset, weight, bias, mask = make_inputs("cuda", channels=64, out_channels=64)
    x, weight = x.half(), weight.half()
    deform_conv2d_channels_last(x, offset, weight, bias, mask=mask, padding=1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = deform_conv2d_channels_last(x, offset, weight, bias, mask=mask, padding=1)
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert torch.equal(captured, deform_conv2d_channels_last(x, offset, weight, bias, mask=mask, padding=1))


def test_columns_are_the_sampled_pixels(kernel_device):
    x, offset, _, _, mask = make_inputs(kernel_device)
    driving = torch.cat([offset, mask], 1).flatten(1)
    tasks = int_table([ConvTask(0, 7, 9, 0, 7, 9, 1, 0, 0, 18 * 63)], x.device)
    blocks = int_table(block_table([63], 32), x.device)
    columns = deform_columns(x.permute(0, 2, 3, 1).flatten(1, 2), driving, tasks, blocks, 32, 63)
    weight = torch.eye(9 * 16, dtype=torch.float64, device=x.device).view(-1, 3, 3, 16).permute(0, 3, 1, 2)
    close(columns, expected(x, offset, weight.contiguous(), None, mask, padding=1).flatten(2).mT)
