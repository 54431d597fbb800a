"""The accelerated Swin body and pyramid against the plain modules, on odd maps that no window divides."""

from collections.abc import Iterator

import pytest
import torch
from interpreted import check_interpreted
from tiny_detector import scramble
from torch import nn
from triton_interpreter import interpreted_kernels

from maskrcnn_benchmark.modeling.accelerated import fpn as accelerated_fpn
from maskrcnn_benchmark.modeling.accelerated import swin as accelerated_swin
from maskrcnn_benchmark.modeling.accelerated.fpn import AcceleratedFPN
from maskrcnn_benchmark.modeling.accelerated.precision import find_precision
from maskrcnn_benchmark.modeling.accelerated.swin import AcceleratedSwin
from maskrcnn_benchmark.modeling.backbone import FPN, LastLevelMaxPool, LastLevelP6P7, SwinTransformer

SMALL = {"embed_dim": 16, "depths": (2, 2, 2), "num_heads": (1, 2, 4), "out_features": ("stage2", "stage3", "stage4")}


def small_body(**options) -> SwinTransformer:
    torch.manual_seed(0)
    return scramble(SwinTransformer(**SMALL | options)).eval()


def small_images(device: torch.device) -> torch.Tensor:
    """70 x 93 pixels: 18 x 24 tokens, then 9 x 12 and 5 x 6."""
    return torch.randn(2, 3, 70, 93, generator=torch.Generator().manual_seed(1)).to(device)


@pytest.fixture(autouse=True)
def without_tf32() -> Iterator[None]:
    """Convolutions of the plain modules are exact on the GPU too; matrix products are by default."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


@pytest.mark.slow
def test_interpreted():
    check_interpreted(__file__)


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="window-7"),
        pytest.param({"window": 12, "norm_first": False}, id="window-12"),
        pytest.param({"absolute_position": True, "layer_scale": 0.5, "out_norm": False}, id="position-and-scale"),
    ],
)
def test_float32_body_equals_the_plain_one(device, options):
    body, images = small_body(**options).to(device), small_images(device)
    maps = AcceleratedSwin(body, find_precision("fp32"))(images)
    for ours, plain in zip(maps, body(images), strict=True):
        assert ours.is_contiguous()
        torch.testing.assert_close(ours.permute(0, 3, 1, 2), plain, rtol=0, atol=5e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["fp16", pytest.param("bf16", marks=pytest.mark.gpu)])
def test_half_precision_body_errs_no_more_than_autocast(device, name):
    body, images, precision = small_body().to(device), small_images(device), find_precision(name)
    exact = body.double()(images.double())
    body.float()
    ours = AcceleratedSwin(body, precision)(images)
    with torch.autocast(device.type, precision.dtype):
        plain = body(images)
    for reference, fast, slow in zip(exact, ours, plain, strict=True):
        assert fast.dtype == precision.dtype
        error = (fast.permute(0, 3, 1, 2) - reference).pow(2).mean()
        assert error <= 1.1**2 * (slow - reference).pow(2).mean()


@pytest.mark.gpu
def test_replayed_graph_reads_new_images():
    device, precision = torch.device("cuda"), find_precision("bf16")
    swin = AcceleratedSwin(small_body().to(device), precision)
    fpn = FPN([16, 32, 64], 24, top_blocks=LastLevelP6P7(24, 24)).to(device).eval()
    pyramid = AcceleratedFPN(fpn, precision)
    images = small_images(device)
    for _ in range(2):
        pyramid(swin(images))
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        visual, _ = pyramid(swin(images))
    images.copy_(images.flip(0) * 0.5)
    graph.replay()
    expected, _ = pyramid(swin(images))
    torch.testing.assert_close(visual, expected, rtol=0, atol=0.02 * expected.abs().max().item())


@torch.no_grad()
def test_coarse_maps_alone(device):
    body, images = small_body().to(device), small_images(device)
    precision = find_precision("fp32")
    alone = AcceleratedSwin(body, precision, num_maps=2)(images)
    for ours, expected in zip(alone, AcceleratedSwin(body, precision)(images)[1:], strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"convolutional": True}, "ConvEmbed"), ({}, None)],
)
def test_bodies_that_are_not_supported(options, reason):
    body = small_body(**options)
    found = accelerated_swin.supports(body)
    assert found is None if reason is None else reason in found
    if reason:
        with pytest.raises(ValueError, match=reason):
            AcceleratedSwin(body, find_precision("fp32"))


def test_other_modules_are_not_supported():
    assert "Linear" in accelerated_swin.supports(nn.Linear(1, 1))
    assert "Linear" in accelerated_fpn.supports(nn.Linear(1, 1))


def small_pyramid(**options) -> FPN:
    torch.manual_seed(0)
    options = {"top_blocks": LastLevelP6P7(24, 24)} | options
    return scramble(FPN([0, 8, 16, 32], 24, **options)).eval()


def small_maps(device: torch.device) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(2, 4, 50, 70), (2, 8, 25, 35), (2, 16, 13, 18), (2, 32, 7, 9)]
    return [torch.randn(shape, generator=generator).to(device) for shape in shapes]


@torch.no_grad()
@pytest.mark.parametrize("top_channels", [24, 32])
@pytest.mark.parametrize(
    ("name", "tolerance"), [("fp32", 2e-6), ("fp16", 3e-3), pytest.param("bf16", 2e-2, marks=pytest.mark.gpu)]
)
def test_pyramid(device, top_channels, name, tolerance):
    fpn, maps = small_pyramid(top_blocks=LastLevelP6P7(top_channels, 24)).to(device), small_maps(device)
    precision = find_precision(name)
    channels_last = [level.permute(0, 2, 3, 1).to(precision.dtype).contiguous() for level in maps]
    visual, shape = AcceleratedFPN(fpn, precision)(channels_last)
    assert visual.is_contiguous() and visual.shape == (2, shape.total, 24)
    assert shape.sizes == ((25, 35), (13, 18), (7, 9), (4, 5), (2, 3))
    for ours, plain in zip(shape.levels(visual), fpn(maps), strict=True):
        bound = tolerance * plain.abs().max().item()
        torch.testing.assert_close(ours.permute(0, 3, 1, 2).float(), plain, rtol=0, atol=bound)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"use_pan": True}, "bottom-up"),
        ({"use_spp": True}, "pools"),
        ({"groups": 4}, "fpn_inner2"),
        ({"use_relu": True}, "fpn_inner2"),
        ({"top_blocks": LastLevelMaxPool()}, "LastLevelMaxPool"),
        ({"top_blocks": None}, "NoneType"),
    ],
)
def test_pyramids_that_are_not_supported(options, reason):
    with pytest.raises(ValueError, match=reason):
        AcceleratedFPN(small_pyramid(**options), find_precision("fp32"))


def test_heads_of_any_width():
    """The embedded model has heads of 20 channels, which the kernel sees as 32."""
    torch.manual_seed(0)
    body = SwinTransformer(
        embed_dim=40, depths=(1, 2), num_heads=(2, 4), window=8, out_features=("stage2", "stage3")
    ).eval()
    images = torch.randn(1, 3, 40, 53)
    with torch.no_grad(), interpreted_kernels():
        found = AcceleratedSwin(body, find_precision("fp32"))(images)
    with torch.no_grad():
        expected = body(images)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.permute(0, 3, 1, 2), theirs, rtol=1e-4, atol=1e-4)
