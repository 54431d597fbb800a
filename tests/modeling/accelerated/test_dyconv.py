"""The accelerated dynamic head layer against the plain one.

Without Triton it runs the plain layer: `test_interpreted` runs this file again with interpreted kernels.
"""

import pytest
import torch
import torch.nn.functional as F
from interpreted import check_interpreted
from tiny_detector import scramble
from torch import Tensor

from maskrcnn_benchmark.modeling.accelerated.dyconv import AcceleratedDyConv, layer_plan, resize_shares
from maskrcnn_benchmark.modeling.accelerated.precision import find_precision
from maskrcnn_benchmark.modeling.accelerated.pyramid import PyramidShape
from maskrcnn_benchmark.modeling.heads.dyconv import DyConv
from maskrcnn_benchmark.ops.kernels.deform_conv import Tuning

CHANNELS = 16
SHAPES = {
    "even": PyramidShape.of([(8, 12), (4, 6), (2, 3)]),
    "odd": PyramidShape.of([(5, 9), (3, 5), (2, 3), (1, 2), (1, 1)]),
    "one level": PyramidShape.of([(3, 4)]),
}
SMALL = Tuning(block_rows=32, block_channels=16, chunk=16, num_warps=4, num_stages=2, is_direct=True)
TOLERANCES = {"fp32": 2e-4, "tf32": 2e-2, "fp16": 2e-2}


@pytest.mark.slow
def test_interpreted():
    check_interpreted(__file__)


def build(channels: int = CHANNELS, **settings) -> DyConv:
    torch.manual_seed(0)
    return scramble(DyConv(channels, channels, num_groups=4, **settings), 0.2).eval().requires_grad_(False)


def plain(dyconv: DyConv, visual: Tensor, shape: PyramidShape) -> Tensor:
    levels = [level.permute(0, 3, 1, 2).contiguous() for level in shape.levels(visual)]
    return torch.cat([level.flatten(2).mT for level in dyconv.mix_levels(levels)], 1)


@pytest.mark.parametrize(
    "name, batch, precision",
    [("odd", 3, "fp32"), ("odd", 1, "tf32"), ("odd", 2, "fp16"), ("even", 2, "tf32"), ("one level", 2, "tf32")],
)
def test_equals_the_plain_layer(device, name, batch, precision):
    shape = SHAPES[name]
    dyconv, visual = build().to(device), torch.randn(batch, shape.total, CHANNELS).to(device)
    weight, bias = torch.rand(CHANNELS).to(device) + 0.5, torch.randn(CHANNELS).to(device)
    accelerated = AcceleratedDyConv(dyconv, find_precision(precision), SMALL)
    tolerance = TOLERANCES[precision]
    mixed = plain(dyconv, visual, shape)
    for norm, expected in (
        (None, mixed),
        ((weight, bias, 1e-5), F.layer_norm(mixed, (CHANNELS,), weight, bias, 1e-5)),
    ):
        found = accelerated(visual.to(accelerated.precision.dtype), shape, norm)
        assert found.dtype == accelerated.precision.dtype and found.is_contiguous()
        torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize("precision, tolerance", [("fp32", 2e-4), ("tf32", 2e-2), ("bf16", 0.15), ("fp16", 2e-2)])
def test_equals_the_plain_layer_at_full_width(precision, tolerance):
    shape = PyramidShape.of([(37, 53), (19, 27), (10, 14), (5, 7), (3, 4)])
    dyconv, visual = build(256).cuda(), torch.randn(2, shape.total, 256, device="cuda")
    accelerated = AcceleratedDyConv(dyconv, find_precision(precision))
    found = accelerated(visual.to(accelerated.precision.dtype), shape).float()
    with torch.backends.cudnn.flags(allow_tf32=False):
        expected = plain(dyconv, visual, shape)
    assert (found - expected).norm() <= tolerance * expected.norm()


@pytest.mark.gpu
def test_graph_replay_reads_new_features():
    shape = SHAPES["odd"]
    accelerated = AcceleratedDyConv(build().cuda(), find_precision("fp16"), SMALL)
    visual = torch.randn(2, shape.total, CHANNELS, device="cuda").half()
    accelerated(visual, shape)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = accelerated(visual, shape)
    visual.copy_(torch.randn_like(visual))
    graph.replay()
    assert torch.equal(captured, accelerated(visual, shape))


@pytest.mark.parametrize("source, target", [(1, 1), (1, 4), (3, 5), (4, 7), (2, 2)])
def test_resize_shares(source, target):
    line = torch.randn(source)
    resized = F.interpolate(line[None, None], size=target, mode="linear", align_corners=True)
    torch.testing.assert_close((line * resize_shares(source, target)).sum(), resized.mean())


def test_plan_counts_every_output_once():
    shape = SHAPES["odd"]
    plan = layer_plan(shape, torch.device("cpu"), 32)
    assert plan.rows == len(plan.shares) == shape.total + 2 * sum(shape.lengths[1:])
    assert [end - start for start, end in plan.weight_rows.values()] == [
        sum(shape.lengths[1:]),
        shape.total,
        sum(shape.lengths[1:]),
    ]
    assert plan.shares.sum().item() == pytest.approx(len(plan.tasks))
    assert plan.branches[:, 1].sum() == len(plan.conv_blocks)


def test_levels_that_do_not_halve_are_refused():
    with pytest.raises(ValueError, match="halve"):
        layer_plan(PyramidShape.of([(8, 8), (3, 4)]), torch.device("cpu"), 32)


@pytest.mark.parametrize(
    "settings, reason",
    [
        ({"use_deform": False}, "deformable"),
        ({"norm": ""}, "GroupNorm"),
        ({"use_dyfuse": False}, "attention"),
        ({"use_dyrelu": False}, "DyReLU"),
        ({"channels": 24}, "24"),
    ],
)
def test_unsupported_layers_are_named(settings, reason):
    dyconv = build(**settings)
    assert reason in AcceleratedDyConv.supports(dyconv)
    with pytest.raises(ValueError, match=reason):
        AcceleratedDyConv(dyconv, find_precision("fp32"))


def test_the_layer_is_supported():
    assert AcceleratedDyConv.supports(build()) is None
