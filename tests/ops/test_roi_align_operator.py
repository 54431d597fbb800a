"""RoIAlign as an operator: kernels against the definition and torchvision, and its registrations."""

import math

import pytest
import torch
from operator_checks import LOW_PRECISIONS, assert_as_precise, assert_replays, compile_whole, skip_without_kernel
from torch import Tensor

from maskrcnn_benchmark.ops.roi_align import _plain_align, _plain_gradient, roi_align

OPERATORS = torch.ops.maskrcnn_benchmark
SCALE = 1 / 8


def random_case(device, dtype=torch.float64, regions=9) -> tuple[Tensor, Tensor]:
    """Maps (2, 5, 13, 17) and regions, some of them partly or wholly outside."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 5, 13, 17, generator=generator, dtype=torch.float64)
    corner = torch.rand(regions, 2, generator=generator, dtype=torch.float64) * 120 - 30
    size = torch.rand(regions, 2, generator=generator, dtype=torch.float64) * 90
    image = torch.randint(0, 2, (regions, 1), generator=generator).double()
    rois = torch.cat((image, corner, corner + size), dim=1)
    return maps.to(device, dtype), rois.to(device, torch.float64 if dtype == torch.float64 else torch.float32)


def definition(maps: Tensor, rois: Tensor, size: tuple[int, int], ratio: int, aligned: bool) -> Tensor:
    """Sample by sample, as the paper describes it."""
    out = maps.new_zeros(len(rois), maps.shape[1], *size)
    shift = 0.5 if aligned else 0.0
    for index, (image, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (corner * SCALE - shift for corner in corners)
        height, width = (y2 - y1, x2 - x1) if aligned else (max(y2 - y1, 1), max(x2 - x1, 1))
        for row in range(size[0]):
            for column in range(size[1]):
                counts = ratio or math.ceil(height / size[0]), ratio or math.ceil(width / size[1])
                samples = [
                    bilinear(
                        maps[int(image)],
                        y1 + (row + (i + 0.5) / counts[0]) * height / size[0],
                        x1 + (column + (j + 0.5) / counts[1]) * width / size[1],
                    )
                    for i in range(counts[0])
                    for j in range(counts[1])
                ]
                out[index, :, row, column] = torch.stack(samples).mean(0)
    return out


def bilinear(maps: Tensor, y: float, x: float) -> Tensor:
    height, width = maps.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return maps.new_zeros(maps.shape[0])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    rows, columns = (int(y), min(int(y) + 1, height - 1)), (int(x), min(int(x) + 1, width - 1))
    top, bottom = (maps[:, r, columns[0]] * (1 - x % 1) + maps[:, r, columns[1]] * (x % 1) for r in rows)
    return top * (1 - y % 1) + bottom * (y % 1)


def value_and_gradient(align, maps: Tensor, *others) -> tuple[Tensor, Tensor]:
    maps = maps.detach().requires_grad_()
    value = align(maps, *others)
    weights = torch.arange(1, value.numel() + 1, device=value.device, dtype=value.dtype).view_as(value) / value.numel()
    return value.detach(), torch.autograd.grad((value * weights).sum(), maps)[0]


def align(maps: Tensor, rois: Tensor, size: tuple[int, int], ratio: int, aligned: bool) -> Tensor:
    return roi_align(maps, rois, size, SCALE, ratio, aligned=aligned)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("size", [(1, 1), (3, 2)])
def test_equals_the_definition(aligned, ratio, size, device):
    maps, rois = random_case(device)
    expected = value_and_gradient(definition, maps, rois, size, ratio, aligned)
    torch.testing.assert_close(value_and_gradient(align, maps, rois, size, ratio, aligned), expected)
    maps = maps.to(memory_format=torch.channels_last)
    rois = rois.T.contiguous().T
    torch.testing.assert_close(value_and_gradient(align, maps, rois, size, ratio, aligned), expected)


def test_gradients(device):
    maps, rois = random_case(device, regions=3)
    assert torch.autograd.gradcheck(lambda x: align(x, rois, (2, 2), 0, True), maps[:, :2].clone().requires_grad_())


@pytest.mark.parametrize("dtype", LOW_PRECISIONS)
def test_error_in_low_precision(dtype, device):
    maps, rois = random_case(device, dtype)
    exact = value_and_gradient(align, maps.double(), rois.double(), (3, 2), 0, True)
    options = (SCALE, 3, 2, 0, True)
    plain = _plain_align(maps, rois, *options)
    weights = torch.arange(1, plain.numel() + 1, device=device, dtype=dtype).view_as(plain) / plain.numel()
    plain_gradient = _plain_gradient(weights, rois, *options, *maps.shape)
    value, gradient = value_and_gradient(align, maps, rois, (3, 2), 0, True)
    assert value.dtype == dtype and gradient.dtype == dtype
    assert_as_precise(value, plain, exact[0])
    assert_as_precise(gradient, plain_gradient, exact[1])


def test_registrations(device):
    maps, rois = random_case(device, torch.float32)
    options = (SCALE, 2, 3, 0, True)
    torch.library.opcheck(OPERATORS.roi_align.default, (maps.clone().requires_grad_(), rois, *options))
    grad = OPERATORS.roi_align(maps, rois, *options)
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(OPERATORS._roi_align_backward.default, (grad, rois, *options, *maps.shape), test_utils=checks)


def test_compiles_without_graph_breaks(device):
    maps, rois = random_case(device, torch.float32)
    case = (maps, rois, (2, 2), 0, True)
    compiled = compile_whole(align, device)
    torch.testing.assert_close(value_and_gradient(compiled, *case), value_and_gradient(align, *case))


def test_autocast_keeps_the_dtype(device):
    maps, rois = random_case(device, torch.bfloat16)
    expected = align(maps, rois, (2, 2), 0, True)
    with torch.autocast(device.type, torch.bfloat16):
        assert torch.equal(align(maps, rois, (2, 2), 0, True), expected)
        assert align(maps.float(), rois, (2, 2), 0, True).dtype == torch.float32


@pytest.mark.parametrize("channels, regions", [(0, 3), (4, 0)])
def test_nothing_to_align(channels, regions, device):
    maps = torch.randn(2, channels, 5, 6, device=device)
    value, gradient = value_and_gradient(align, maps, torch.zeros(regions, 5, device=device), (2, 3), 0, False)
    assert value.shape == (regions, channels, 2, 3) and gradient.shape == maps.shape and not gradient.any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_extreme_regions_end(value, device):
    skip_without_kernel("roi_align", device)
    maps, rois = random_case(device, torch.float32, regions=2)
    rois[0, 3] = value
    out = align(maps, rois, (1, 1), 0, True)
    torch.testing.assert_close(out[1], align(maps, rois[1:], (1, 1), 0, True)[0])


@pytest.mark.parametrize("image", [-1.0, 2.0, float("nan")])
def test_an_image_outside_the_batch(image, device):
    skip_without_kernel("roi_align", device)
    maps, rois = random_case(device, torch.float32, regions=2)
    rois[1, 0] = image
    if device.type == "cpu":
        with pytest.raises(RuntimeError, match=r"image index of region 1 must be in \[0, 2\), got (-1|2|nan)"):
            align(maps, rois, (1, 1), 0, True)
    else:
        assert align(maps, rois, (1, 1), 0, True)[1].isnan().all() or math.isnan(image)


@pytest.mark.parametrize(
    ("maps", "rois", "message"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(1, 5), r"input must have the shape \(B, C, H, W\), got \(2, 3, 4\)"),
        (torch.zeros(1, 2, 0, 4), torch.zeros(1, 5), r"input must have cells .* got the shape \(1, 2, 0, 4\)"),
        (torch.zeros(1, 2, 3, 4), torch.zeros(1, 4), r"rois must have the shape \(1, 5\), got \(1, 4\)"),
        (torch.zeros(1, 2, 3, 4).int(), torch.zeros(1, 5), "input must be Float, .* got Int"),
        (torch.zeros(1, 2, 3, 4), torch.zeros(1, 5).long(), "rois must be Float, .* got Long"),
    ],
)
def test_the_kernel_checks_its_arguments(maps, rois, message, device):
    skip_without_kernel("roi_align", device)
    with pytest.raises(RuntimeError, match=message):
        OPERATORS.roi_align(maps.to(device), rois.to(device), 1.0, 2, 2, 0, False)
    for sizes in ((1, 2, 0, 4), (1, 2, 4, 0), (-1, 2, 4, 4)):
        with pytest.raises(RuntimeError, match=rf"must have cells .* the shape \({', '.join(map(str, sizes))}\)"):
            OPERATORS._roi_align_backward(
                torch.ones(1, 2, 2, 2, device=device), torch.zeros(1, 5, device=device), 1.0, 2, 2, 0, False, *sizes
            )
    with pytest.raises(RuntimeError, match=r"output size must be positive, got \(0, 2\)"):
        OPERATORS.roi_align(
            torch.zeros(1, 2, 3, 4, device=device), torch.zeros(1, 5, device=device), 1.0, 0, 2, 0, False
        )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float64, *LOW_PRECISIONS])
def test_the_gpu_computes_what_the_cpu_does(dtype):
    maps, rois = random_case("cpu", dtype, regions=40)
    expected = value_and_gradient(align, maps, rois, (7, 7), 0, False)
    actual = value_and_gradient(align, maps.cuda(), rois.cuda(), (7, 7), 0, False)
    eps = torch.finfo(dtype).eps  # both sum in float32 or better, in another order, and round once
    tolerance = {"rtol": 2 * eps, "atol": 2 * eps} if dtype.itemsize == 2 else {}
    torch.testing.assert_close([tensor.cpu() for tensor in actual], list(expected), **tolerance)


@pytest.mark.gpu
def test_a_recorded_graph_reads_fresh_input():
    def step(maps, rois):
        out = OPERATORS.roi_align(maps, rois, SCALE, 2, 2, 0, True)
        return OPERATORS._roi_align_backward(out, rois, SCALE, 2, 2, 0, True, *maps.shape)

    maps, rois = random_case("cuda", torch.float32)
    assert_replays(step, [maps, rois], [maps.flip(3), rois.flip(0)])
