"""The operator of the deformable convolution: registrations, precision, layouts and extreme arguments."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from maskrcnn_benchmark.ops.deform_conv import deform_conv2d

OPERATOR = torch.ops.maskrcnn_benchmark.deform_conv2d.default
needs_kernel = pytest.mark.skipif(
    not torch._C._dispatch_has_kernel_for_dispatch_key("maskrcnn_benchmark::deform_conv2d", "CPU"),
    reason="there is no compiled library",
)
NAMES = ("input", "offset", "mask", "weight", "bias")


def reference(input: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None, settings):
    """From the definition, with one index per corner of a sample; differentiable in plain PyTorch."""
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups, offset_groups = settings
    batch, channels, height, width = input.shape
    out_channels, _, kh, kw = weight.shape
    out_h, out_w = offset.shape[2:]
    moved = offset.view(batch, offset_groups, kh, kw, 2, out_h, out_w)
    grid = {"dtype": input.dtype, "device": input.device}
    rows = torch.arange(out_h, **grid)[:, None] * stride_h - pad_h
    columns = torch.arange(out_w, **grid) * stride_w - pad_w
    y = moved[:, :, :, :, 0] + rows + torch.arange(kh, **grid)[:, None, None, None] * dilation_h
    x = moved[:, :, :, :, 1] + columns + torch.arange(kw, **grid)[:, None, None] * dilation_w
    is_near = (y > -1) & (y < height) & (x > -1) & (x < width)
    y, x = (torch.where(is_near, t, torch.zeros_like(t)) for t in (y, x))
    pixels = input.view(batch, offset_groups, -1, height * width)
    samples = 0.0
    for down, right in itertools.product((0, 1), (0, 1)):
        row, column = y.detach().floor() + down, x.detach().floor() + right
        share = _share(y, down) * _share(x, right)
        is_inside = is_near & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        index = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long().flatten(2)
        values = pixels.gather(3, index[:, :, None].expand(-1, -1, pixels.shape[2], -1))
        samples = samples + values.unflatten(3, y.shape[2:]) * (share * is_inside)[:, :, None]
    if mask is not None:
        samples = samples * mask.view(batch, offset_groups, 1, kh, kw, out_h, out_w)
    samples = samples.reshape(batch, groups, channels // groups, kh, kw, out_h, out_w)
    kernel = weight.view(groups, out_channels // groups, *weight.shape[1:])
    out = torch.einsum("bgcijhw,gocij->bgohw", samples, kernel).flatten(1, 2)
    return out if bias is None else out + bias[:, None, None]


def _share(position: Tensor, is_high: int) -> Tensor:
    """What the pixel below or above a coordinate counts; at whole numbers its slope is that of the right side."""
    fraction = position - position.detach().floor()
    return fraction if is_high else 1 - fraction


def arguments(
    device="cpu",
    dtype=torch.float64,
    *,
    size=(2, 8, 7, 9),
    out_channels=6,
    kernel=(3, 3),
    settings=(1, 1, 1, 1, 1, 1, 1, 1),
    has_mask=True,
    has_bias=True,
):
    """The arguments of the operator, offsets of some pixels, in float64 rounded to `dtype`."""
    generator = torch.Generator().manual_seed(0)
    groups, offset_groups = settings[6:]
    taps = kernel[0] * kernel[1]
    out = [
        (size[2 + i] + 2 * settings[2 + i] - settings[4 + i] * (kernel[i] - 1) - 1) // settings[i] + 1 for i in (0, 1)
    ]

    def numbers(*shape, scale=1.0):
        values = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
        return values.to(dtype).to(device)

    input = numbers(*size)
    offset = numbers(size[0], 2 * offset_groups * taps, *out, scale=2)
    mask = numbers(size[0], offset_groups * taps, *out).sigmoid() if has_mask else None
    weight = numbers(out_channels, size[1] // groups, *kernel, scale=0.2)
    return input, offset, mask, weight, numbers(out_channels) if has_bias else None, *settings


def gradients(function, tensors, grad):
    leaves = [t if t is None else t.detach().clone().requires_grad_() for t in tensors]
    out = function(*leaves)
    out.backward(grad)
    return out.detach(), [t if t is None else t.grad for t in leaves]


CASES = {
    "3x3": {},
    "no mask, no bias": {"has_mask": False, "has_bias": False},
    "groups": {"settings": (1, 1, 1, 1, 1, 1, 2, 1)},
    "offset groups across groups": {"settings": (1, 1, 1, 1, 1, 1, 4, 2), "out_channels": 8},
    "groups across offset groups": {"settings": (1, 1, 1, 1, 1, 1, 2, 4)},
    "rectangular": {"kernel": (2, 3), "settings": (2, 1, 0, 2, 1, 2, 1, 1)},
    "one number": {"size": (1, 1, 1, 1), "out_channels": 1},
    "one tap": {"kernel": (1, 1), "settings": (1, 1, 0, 0, 1, 1, 1, 1)},
    "many channels": {"size": (2, 136, 5, 6), "out_channels": 16},
    "many taps": {"size": (1, 4, 12, 40), "kernel": (5, 7), "settings": (1, 1, 2, 3, 1, 1, 1, 4)},
    "many locations": {"size": (3, 16, 23, 31), "out_channels": 8},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_result_and_gradients_equal_the_definition(case, device):
    *tensors, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, groups, offset_groups = arguments(device, **case)
    settings = (stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, groups, offset_groups)
    grad = torch.randn_like(OPERATOR(*tensors, *settings))
    actual = gradients(lambda *t: OPERATOR(*t, *settings), tensors, grad)
    expected = gradients(lambda *t: reference(*t, settings), tensors, grad)
    torch.testing.assert_close(actual[0], expected[0])
    for name, one, other in zip(NAMES, actual[1], expected[1], strict=True):
        torch.testing.assert_close(one, other, msg=lambda text, name=name: f"gradient of {name}: {text}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("has_wide_offsets", [False, True])
@pytest.mark.parametrize("channels", [64, 12])
def test_error_in_low_precision(dtype, has_wide_offsets, channels, device):
    """At most twice the error of plain PyTorch in the same precision, and that of rounding the result."""
    *tensors, settings = _split(arguments(device, dtype, size=(2, channels, 9, 10), out_channels=16))
    exact = [t.double() for t in tensors]
    if has_wide_offsets:
        tensors[1:3] = (t.float() for t in tensors[1:3])
    out = OPERATOR(*tensors, *settings)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    actual = gradients(lambda *t: OPERATOR(*t, *settings), tensors, grad)
    plain = gradients(lambda *t: reference(*t, settings), [t.to(dtype) for t in exact], grad)
    expected = gradients(lambda *t: reference(*t, settings), exact, grad.double())
    assert actual[0].dtype == dtype
    pairs = zip((*NAMES, "output"), (*actual[1], actual[0]), (*plain[1], plain[0]), strict=True)
    for (name, one, other), ideal in zip(pairs, (*expected[1], expected[0]), strict=True):
        scale = ideal.abs().max()
        error, plain_error = ((t.double() - ideal).abs().max() / scale for t in (one, other))
        assert error <= max(2 * plain_error, torch.finfo(dtype).eps), f"{name}: {error:.2e}, plain {plain_error:.2e}"


def _split(values):
    return *values[:5], values[5:]


@pytest.mark.parametrize("case", [{}, {"has_mask": False, "has_bias": False}, {"settings": (1, 1, 1, 1, 1, 1, 2, 2)}])
def test_registrations(case, device):
    *tensors, settings = _split(arguments(device, size=(1, 4, 3, 4), out_channels=2, **case))
    for tensor in tensors:
        if tensor is not None:
            tensor.requires_grad_()
    wobble = {"atol": 1e-10, "rtol": 1e-10} if device.type == "cuda" else {}
    torch.library.opcheck(OPERATOR, (*tensors, *settings), **wobble)
    grad = torch.randn_like(OPERATOR(*tensors, *settings))
    backward = torch.ops.maskrcnn_benchmark._deform_conv2d_backward.default
    detached = [t if t is None else t.detach() for t in (grad, *tensors)]
    for needs in ((True, True, True), (False, True, False), (True, False, False), (False, False, True)):
        torch.library.opcheck(backward, (*detached, *settings, *needs), **wobble)


def test_leaves_out_gradients_that_nobody_needs(device):
    *tensors, settings = _split(arguments(device))
    grad = torch.randn_like(OPERATOR(*tensors, *settings))
    _, everything = gradients(lambda *t: OPERATOR(*t, *settings), tensors, grad)
    for i, tensor in enumerate(tensors):
        leaf = tensor.clone().requires_grad_()
        OPERATOR(*tensors[:i], leaf, *tensors[i + 1 :], *settings).backward(grad)
        torch.testing.assert_close(leaf.grad, everything[i])


def test_is_differentiable_once():
    *tensors, settings = _split(arguments(size=(1, 2, 3, 3)))
    leaf = tensors[0].requires_grad_()
    (grad,) = torch.autograd.grad(OPERATOR(*tensors, *settings).sum(), leaf, create_graph=True)
    with pytest.raises(NotImplementedError, match="differentiable once"):
        grad.sum().backward()


def test_compiles_without_graph_breaks(device):
    *tensors, _ = _split(arguments(device, torch.float32))
    input, offset, mask, weight, bias = (t.requires_grad_() for t in tensors)

    def loss(input, offset, mask, weight, bias):
        return (deform_conv2d(input, offset, weight, bias, mask=mask.sigmoid(), padding=1) ** 2).mean()

    expected = torch.autograd.grad(loss(*tensors), tensors)
    actual = torch.autograd.grad(torch.compile(loss, fullgraph=True)(*tensors), tensors)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30, -3e9, 2.2e9])
@pytest.mark.parametrize("channels", [3, 16])
def test_extreme_offsets_sample_nothing(value, channels, device):
    *tensors, settings = _split(arguments(device, torch.float32, size=(2, channels, 7, 9)))
    tensors[1][:, 4, 2:4] = value  # the third tap down of two rows
    expected = [t.clone() for t in tensors]
    expected[1][:, 4, 2:4] = 0
    expected[2][:, 2, 2:4] = 0
    torch.testing.assert_close(OPERATOR(*tensors, *settings), OPERATOR(*expected, *settings))
    grad = torch.randn_like(OPERATOR(*tensors, *settings))
    _, actual = gradients(lambda *t: OPERATOR(*t, *settings), tensors, grad)
    _, other = gradients(lambda *t: OPERATOR(*t, *settings), expected, grad)
    for i in (0, 3, 4):
        torch.testing.assert_close(actual[i], other[i])
    assert actual[1].isfinite().all() and actual[2].isfinite().all()
    assert actual[1][:, 4:6, 2:4].abs().max() == 0
    assert actual[2][:, 2, 2:4].abs().max() == 0


@needs_kernel
def test_infinite_features_stay_where_they_are(device):
    """Taps outside of the map read nothing, not even times 0."""
    *tensors, settings = _split(arguments(device, torch.float32))
    tensors[1].fill_(100)
    tensors[0].fill_(float("inf"))
    assert OPERATOR(*tensors, *settings).isfinite().all()


def test_empty_batch(device):
    *tensors, settings = _split(arguments(device, torch.float32, size=(0, 8, 7, 9)))
    out, grads = gradients(lambda *t: OPERATOR(*t, *settings), tensors, torch.zeros(0, 6, 7, 9, device=device))
    assert out.shape == (0, 6, 7, 9)
    assert [g.shape for g in grads] == [t.shape for t in tensors]
    assert all((g == 0).all() for g in grads)


def test_layouts_give_one_result(device):
    *tensors, settings = _split(arguments(device, torch.float32, size=(3, 16, 7, 9)))
    input, offset, mask, weight, bias = tensors
    last = torch.channels_last
    table = torch.zeros(3, 100, 16, device=device)
    table[:, 20:83] = input.flatten(2).mT
    level = table[:, 20:83].unflatten(1, (7, 9)).permute(0, 3, 1, 2)  # as a level of a pyramid lies in memory
    both = torch.cat((offset, mask), 1).contiguous(memory_format=last)
    variants = [
        (input.to(memory_format=last), both[:, :18], both[:, 18:], weight.to(memory_format=last), bias),
        (level, offset, mask.mT.contiguous().mT, weight, torch.stack((bias, bias), 1)[:, 0]),
        (input.expand(3, -1, -1, -1)[:, :, ::1].mT.contiguous().mT, offset, mask, weight, bias),
        (torch.cat((input, input), 1)[:, :16], offset, mask, weight, bias),
    ]
    grad = torch.randn(3, 6, 7, 9, device=device)
    expected = gradients(lambda *t: OPERATOR(*t, *settings), tensors, grad)
    for variant in variants:
        assert all(torch.equal(one, other) for one, other in zip(variant, tensors, strict=True))
        torch.testing.assert_close(OPERATOR(*variant, *settings), expected[0])
        leaves = [t.detach().requires_grad_() for t in variant]
        actual = torch.autograd.grad(OPERATOR(*leaves, *settings), leaves, grad.to(memory_format=last))
        torch.testing.assert_close(actual, tuple(expected[1]))


def sent(value, device):
    """A value on the device; one number that stands for a whole tensor is sent once."""
    if not isinstance(value, Tensor):
        return value
    return value[(0,) * value.dim()].to(device).expand(value.shape) if not any(value.stride()) else value.to(device)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(2, 8, 7, 9, dtype=torch.int64)}, "input must be .* got Long"),
        ({3: torch.zeros(6, 8, 3, 3)}, "weight must have the dtype of input, Double, got Float"),
        ({1: torch.zeros(2, 18, 7, 9)}, "offset must be Double"),
        ({1: torch.zeros(2, 18, 7, 8, dtype=torch.float64)}, r"offset must have the shape \(2, 18, 7, 9\)"),
        ({2: torch.zeros(2, 8, 7, 9, dtype=torch.float64)}, r"mask must have the shape \(2, 9, 7, 9\)"),
        ({4: torch.zeros(5, dtype=torch.float64)}, r"bias must have the shape \(6,\), got \(5,\)"),
        ({5: 0}, "stride_h must be between 1 and .* got 0"),
        ({8: -1}, "pad_w must be between 0 and .* got -1"),
        ({9: 9}, "smaller than the dilated kernel"),
        ({3: torch.zeros(1, dtype=torch.float64).expand(6, 8, 1 << 16, 1 << 16)}, "number of taps .* got 4294967296"),
        ({11: 3}, "does not fit input .* with 3 groups"),
        ({12: 3}, "3 offset groups do not divide 8 channels"),
    ],
)
@needs_kernel
def test_the_kernel_checks_its_arguments(change, message, device):
    values = list(arguments())
    for i, value in change.items():
        values[i] = value
    with pytest.raises(RuntimeError, match=message):
        OPERATOR(*(sent(value, device) for value in values))


def test_autocast_keeps_coordinates_precise(device):
    """Features and weights may be rounded to autocast's dtype; offsets and masks are not."""
    *tensors, settings = _split(arguments(device, torch.float32))
    with torch.autocast(device.type, torch.bfloat16):
        out, grads = gradients(lambda *t: OPERATOR(*t, *settings), tensors, torch.ones(2, 6, 7, 9, device=device))
    assert out.dtype == torch.float32
    assert all(g.dtype == torch.float32 for g in grads)
    rounded = [t.bfloat16().double() if i in (0, 3, 4) else t.double() for i, t in enumerate(tensors)]
    exact, exact_grads = gradients(
        lambda *t: reference(*t, settings), rounded, torch.ones(2, 6, 7, 9, device=device, dtype=torch.float64)
    )
    for one, other in zip((out, *grads), (exact, *exact_grads), strict=True):
        assert (one.double() - other).abs().max() <= 0.02 * other.abs().max()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_graph_replays_on_fresh_input(dtype):
    """Forward and backward are recorded: a kernel on another stream would be missing from the replay."""
    *tensors, settings = _split(arguments("cuda", dtype, size=(2, 32, 13, 21)))
    leaves = [t.clone().requires_grad_() for t in tensors]
    grad = torch.randn_like(OPERATOR(*tensors, *settings))

    def step():
        out = OPERATOR(*leaves, *settings)
        return (out, *torch.autograd.grad(out, leaves, grad))

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        for leaf in leaves:
            leaf.copy_(torch.rand_like(leaf))
        grad.copy_(torch.rand_like(grad))
    graph.replay()
    for one, other in zip(captured, step(), strict=True):
        torch.testing.assert_close(one, other)
