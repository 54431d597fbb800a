import pytest
import torch
import torch.nn.functional as F
from golden_tools import TOLERANCES, assert_golden, golden_tensor, load_golden

from maskrcnn_benchmark.ops.deform_conv import deform_conv2d


def reinterpret(tensor: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The first numbers of every image, seen as a smaller map: what the original reads from a map that is too large."""
    channels = tensor.shape[1]
    return tensor.flatten(1)[:, : channels * height * width].unflatten(1, (channels, height, width))


@pytest.mark.parity
@pytest.mark.parametrize(("case", "stride"), [("stride1", 1), ("stride2", 2), ("oversized_offset", 1)])
def test_matches_the_recording(case, stride):
    npz = load_golden("ops.npz")
    names = ("x", "offset", "mask_logits", "weight", "bias")
    x, offset, mask_logits, weight, bias = (
        golden_tensor(npz, f"mdconv.{case}.{name}").requires_grad_() for name in names
    )
    mask = mask_logits.sigmoid()
    used_offset, used_mask = offset, mask
    if case == "oversized_offset":
        used_offset, used_mask = reinterpret(offset, *x.shape[2:]), reinterpret(mask, *x.shape[2:])
    y = deform_conv2d(x, used_offset, weight, bias, mask=used_mask, stride=stride, padding=1)
    assert_golden(y, npz, f"mdconv.{case}.y", TOLERANCES["ops"])
    y.backward(golden_tensor(npz, f"mdconv.{case}.grad_out"))
    for name, tensor in zip(names, (x, offset, mask_logits, weight, bias), strict=True):
        assert_golden(tensor.grad, npz, f"mdconv.{case}.grad_{name}", TOLERANCES["ops_gradient"])


def random_case(device="cpu", dtype=torch.float64, groups=1, offset_groups=1):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 5, 6, generator=generator, dtype=dtype)
    offset = torch.randn(2, 18 * offset_groups, 5, 6, generator=generator, dtype=dtype) * 2
    mask = torch.rand(2, 9 * offset_groups, 5, 6, generator=generator, dtype=dtype)
    weight = torch.randn(6, 4 // groups, 3, 3, generator=generator, dtype=dtype)
    bias = torch.randn(6, generator=generator, dtype=dtype)
    return [t.to(device).requires_grad_() for t in (x, offset, mask, weight, bias)]


def reference(x, offset, mask, weight, bias, stride, padding, dilation):
    """One tap of one output at a time, from the definition."""
    batch, channels, height, width = x.shape
    out_channels, _, kh, kw = weight.shape
    out_height, out_width = offset.shape[2:]
    groups = offset.shape[1] // (2 * kh * kw)
    columns = x.new_zeros(batch, channels, kh * kw, out_height, out_width)
    for b in range(batch):
        for g in range(groups):
            own = slice(g * channels // groups, (g + 1) * channels // groups)
            for tap in range(kh * kw):
                for i in range(out_height):
                    for j in range(out_width):
                        k = g * kh * kw + tap
                        y = i * stride - padding + tap // kw * dilation + offset[b, 2 * k, i, j]
                        z = j * stride - padding + tap % kw * dilation + offset[b, 2 * k + 1, i, j]
                        if -1 < y < height and -1 < z < width:
                            y0, z0 = int(y.floor()), int(z.floor())
                            for yy, wy in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
                                for zz, wz in ((z0, 1 - (z - z0)), (z0 + 1, z - z0)):
                                    if 0 <= yy < height and 0 <= zz < width:
                                        columns[b, own, tap, i, j] += x[b, own, yy, zz] * wy * wz * mask[b, k, i, j]
    return torch.einsum("bcthw,oct->bohw", columns, weight.flatten(2)) + bias[:, None, None]


@pytest.mark.parametrize(("stride", "padding", "dilation", "offset_groups"), [(1, 1, 1, 1), (2, 1, 1, 2), (1, 2, 2, 1)])
def test_equals_the_definition(stride, padding, dilation, offset_groups):
    with torch.no_grad():
        x, offset, mask, weight, bias = random_case(offset_groups=offset_groups)
        size = [(n + 2 * padding - 2 * dilation - 1) // stride + 1 for n in x.shape[2:]]
        offset, mask = offset[..., : size[0], : size[1]], mask[..., : size[0], : size[1]]
        actual = deform_conv2d(x, offset, weight, bias, mask=mask, stride=stride, padding=padding, dilation=dilation)
        torch.testing.assert_close(actual, reference(x, offset, mask, weight, bias, stride, padding, dilation))


def test_is_a_convolution_without_offsets(device):
    x, offset, mask, weight, bias = random_case(device)
    actual = deform_conv2d(x, offset * 0, weight, bias, padding=1)
    torch.testing.assert_close(actual, F.conv2d(x, weight, bias, padding=1))
    actual = deform_conv2d(x, offset * 0, weight, bias, mask=torch.ones_like(mask), padding=1)
    torch.testing.assert_close(actual, F.conv2d(x, weight, bias, padding=1))


@pytest.mark.parametrize("groups", [1, 2])
def test_gradients(device, groups):
    x, offset, mask, weight, bias = random_case(device, groups=groups)
    x, offset, mask = (t[:1, ..., :3, :4].detach().requires_grad_() for t in (x, offset, mask))

    def run(x, offset, mask, weight, bias):
        return deform_conv2d(x, offset, weight, bias, mask=mask, padding=1)

    # On a GPU the gradient of the input is summed by atomic additions, whose order differs from run to run. In float64
    # that moves the last bits of sums of a few dozen terms.
    wobble = 1e-12 if device.type == "cuda" else 0.0
    assert torch.autograd.gradcheck(run, (x, offset, mask, weight, bias), fast_mode=True, nondet_tol=wobble)


@pytest.mark.parametrize("position", [-1.0, -1.5, -0.5, 4.0, 4.5, 5.0])
def test_samples_at_the_border(position):
    """One tap on a column of five ones: full inside, fading to nothing one pixel outside."""
    x = torch.ones(1, 1, 5, 1, dtype=torch.float64)
    offset = torch.tensor([position, 0.0], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 5, 1)
    value = deform_conv2d(x, offset, torch.ones(1, 1, 1, 1, dtype=torch.float64))[0, 0, 0, 0]
    assert value == max(0.0, min(1.0, 1 + position, 5 - position))


def test_layout_and_precision_of_the_inputs_do_not_matter():
    x, offset, mask, weight, bias = (t.detach().float() for t in random_case())
    expected = deform_conv2d(x, offset, weight, bias, mask=mask, padding=1)
    last = torch.channels_last
    actual = deform_conv2d(
        x.to(memory_format=last), offset.to(memory_format=last), weight, bias, mask=mask.mT.contiguous().mT, padding=1
    )
    torch.testing.assert_close(actual, expected)
    with torch.autocast("cpu", torch.bfloat16):
        actual = deform_conv2d(x.bfloat16(), offset, weight, bias, mask=mask, padding=1)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, deform_conv2d(x.bfloat16().float(), offset, weight, bias, mask=mask, padding=1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_keeps_16_bit_numbers_outside_autocast(dtype):
    x, offset, mask, weight, bias = (t.detach().to(dtype) for t in random_case())
    actual = deform_conv2d(x, offset, weight, bias, mask=mask, padding=1)
    exact = deform_conv2d(x.float(), offset.float(), weight.float(), bias.float(), mask=mask.float(), padding=1)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual, exact.to(dtype))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c | {"offset": c["offset"][..., :4]},
            r"offset must have the shape \(2, 18, 5, 6\), got \(2, 18, 5, 4\)",
        ),
        (lambda c: c | {"mask": c["mask"][:, :3]}, r"mask must have the shape \(2, 9, 5, 6\), got \(2, 3, 5, 6\)"),
        (lambda c: c | {"offset": c["offset"][:, :17]}, "17 channels; needed is a multiple of 18"),
        (lambda c: c | {"bias": c["bias"][:2]}, r"bias must have the shape \(6,\), got \(2,\)"),
        (lambda c: c | {"weight": c["weight"][:, :3]}, "make no whole groups"),
        (lambda c: c | {"input": c["input"][0]}, r"input must have 4 dimensions, got shape \(4, 5, 6\)"),
        (lambda c: c | {"padding": 0, "dilation": 3}, "smaller than the kernel"),
        (lambda c: c | {"stride": 0}, r"must be positive .* got .*stride=\(0, 0\)"),
        (lambda c: c | {"dilation": (1, 0)}, r"must be positive .* got .*dilation=\(1, 0\)"),
        (lambda c: c | {"padding": -1}, r"not negative, got .*padding=\(-1, -1\)"),
        (lambda c: c | {"weight": c["weight"][:, :0]}, r"weight must not be empty, got shape \(6, 0, 3, 3\)"),
        (lambda c: c | {"weight": c["weight"][..., :0]}, r"weight must not be empty, got shape \(6, 4, 3, 0\)"),
    ],
)
def test_wrong_shapes_are_named(change, message):
    x, offset, mask, weight, bias = random_case()
    case = {"input": x, "offset": offset, "weight": weight, "bias": bias, "mask": mask, "padding": 1}
    with pytest.raises(ValueError, match=message):
        deform_conv2d(**change(case))
