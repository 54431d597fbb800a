"""The focal losses as operators: kernels against plain PyTorch, and their registrations."""

import pytest
import torch
from operator_checks import LOW_PRECISIONS, assert_as_precise, assert_replays, compile_whole, skip_without_kernel
from torch import Tensor

from maskrcnn_benchmark.ops.sigmoid_focal_loss import (
    _plain_label_gradient,
    _plain_label_loss,
    _plain_token_loss,
    _plain_token_loss_with_gradient,
    sigmoid_focal_loss,
    token_sigmoid_focal_loss,
)

OPERATORS = torch.ops.maskrcnn_benchmark


def token_case(device, dtype=torch.float64, shape=(2, 37, 20), scale=6.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    targets = torch.rand(shape, generator=generator, dtype=torch.float64)
    targets = torch.where(targets < 0.6, (targets < 0.1).double(), targets)  # zeros, ones and numbers between
    mask = (torch.rand(shape[0], shape[2], generator=generator) < 0.7).long()
    return logits.to(device, dtype), targets.to(device, dtype), mask.to(device)


def label_case(device, dtype=torch.float64, shape=(41, 7)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 6 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return logits.to(device, dtype), torch.randint(-1, shape[1] + 3, shape[:1], generator=generator).to(device)


def token_definition(logits: Tensor, targets: Tensor, mask: Tensor | None, alpha: float, gamma: float) -> Tensor:
    """From the probabilities, without a thought of precision."""
    p = logits.sigmoid()
    loss = -targets * p.log() - (1 - targets) * (1 - p).log()
    loss = loss * (1 - p * targets - (1 - p) * (1 - targets)) ** gamma
    if alpha >= 0:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    return loss.sum() if mask is None else loss[(mask > 0)[:, None].expand_as(loss)].sum()


def value_and_gradient(loss, logits: Tensor, *others) -> tuple[Tensor, Tensor]:
    logits = logits.detach().requires_grad_()
    value = loss(logits, *others)
    return value.detach(), torch.autograd.grad(value.sum(), logits)[0]


@pytest.mark.parametrize("shape", [(2, 37, 20), (1, 5, 256), (3, 1, 101), (2, 9, 3)])
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (-1.0, 2.0), (0.6, 1.5), (0.25, 0.0)])
def test_token_loss_equals_the_definition(shape, alpha, gamma, device):
    logits, targets, mask = token_case(device, shape=shape)
    for text_mask in (mask, None):
        expected = value_and_gradient(token_definition, logits, targets, text_mask, alpha, gamma)
        actual = value_and_gradient(token_sigmoid_focal_loss, logits, targets, text_mask, alpha, gamma)
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.float64, torch.float32, torch.bfloat16])
def test_masks_and_targets_of_other_types(dtype, device):
    logits, targets, mask = token_case(device, torch.float32)
    expected = value_and_gradient(token_sigmoid_focal_loss, logits, targets.round(), mask, 0.25, 2.0)
    actual = value_and_gradient(token_sigmoid_focal_loss, logits, targets.round().to(dtype), mask.to(dtype), 0.25, 2.0)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dtype", LOW_PRECISIONS)
@pytest.mark.parametrize("wide_targets", [True, False])
def test_token_loss_in_low_precision(dtype, wide_targets, device):
    logits, targets, mask = token_case(device, dtype)
    targets = targets.float() if wide_targets else targets
    arguments = (mask, 0.25, 2.0)
    exact = value_and_gradient(token_definition, logits.double(), targets.double(), *arguments)
    plain, plain_gradient = _plain_token_loss_with_gradient(logits, targets, *arguments)
    value, gradient = value_and_gradient(token_sigmoid_focal_loss, logits, targets, *arguments)
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    assert_as_precise(value, plain, exact[0])
    assert_as_precise(gradient, plain_gradient.to(dtype), exact[1])


@pytest.mark.parametrize("dtype", LOW_PRECISIONS)
def test_label_loss_in_low_precision(dtype, device):
    logits, labels = label_case(device, dtype)
    exact = value_and_gradient(_plain_label_loss, logits.double(), labels, 2.0, 0.25)
    plain = _plain_label_loss(logits, labels, 2.0, 0.25)
    plain_gradient = _plain_label_gradient(torch.ones_like(plain), logits, labels, 2.0, 0.25)
    value, gradient = value_and_gradient(sigmoid_focal_loss, logits, labels, 2.0, 0.25)
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    assert_as_precise(value, plain, exact[0])
    assert_as_precise(gradient, plain_gradient, exact[1])


def test_kernels_equal_the_plain_implementations(device):
    skip_without_kernel("sigmoid_focal_loss", device)
    logits, labels = label_case(device)
    for arguments in [(2.0, 0.25), (1.3, 0.6)]:
        actual = OPERATORS.sigmoid_focal_loss(logits, labels, *arguments)
        torch.testing.assert_close(actual, _plain_label_loss(logits, labels, *arguments))
        grad = torch.randn_like(actual)
        actual = OPERATORS._sigmoid_focal_loss_backward(grad, logits, labels.int(), *arguments)
        torch.testing.assert_close(actual, _plain_label_gradient(grad, logits, labels, *arguments))
    for gamma in (2.0, 1.7):
        case = (*token_case(device), 0.25, gamma)
        expected = _plain_token_loss_with_gradient(*case)
        torch.testing.assert_close(OPERATORS._token_sigmoid_focal_loss_with_gradient(*case), expected)
        torch.testing.assert_close(OPERATORS.token_sigmoid_focal_loss(*case), _plain_token_loss(*case))


def test_any_layout_gives_one_result(device):
    logits, targets, mask = token_case(device, torch.float32, (2, 12, 20))
    expected = value_and_gradient(token_sigmoid_focal_loss, logits, targets, mask, 0.25, 2.0)
    padded = torch.zeros(2, 12, 23, device=device)[:, :, 1:21]  # rows that start at odd places
    for change in (
        lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
        lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
        lambda t: torch.cat((torch.zeros(1, device=device), t.flatten()))[1:].view_as(t),
        lambda t: padded.copy_(t),
    ):
        mask_view = mask.T.contiguous().T
        actual = value_and_gradient(token_sigmoid_focal_loss, change(logits), targets.clone(), mask_view, 0.25, 2.0)
        torch.testing.assert_close(actual, expected)
        actual = value_and_gradient(token_sigmoid_focal_loss, logits, change(targets), mask_view, 0.25, 2.0)
        torch.testing.assert_close(actual, expected)
    labels = torch.randint(-1, 22, (12,), device=device)
    expected = sigmoid_focal_loss(logits[0], labels, 2.0, 0.25)
    torch.testing.assert_close(sigmoid_focal_loss(logits[0].T.contiguous().T, labels, 2.0, 0.25), expected)


def test_the_sum_is_the_same_in_every_run(device):
    case = token_case(device, torch.float32, (2, 3001, 64))
    first = token_sigmoid_focal_loss(*case, 0.25, 2.0)
    assert all(torch.equal(first, token_sigmoid_focal_loss(*case, 0.25, 2.0)) for _ in range(5))


def test_saturated_logits_have_exact_losses(device):
    logits = torch.tensor([[[300.0, -300.0, 300.0, -300.0]]], device=device)
    targets = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]], device=device)
    value, gradient = value_and_gradient(token_sigmoid_focal_loss, logits, targets, None, 0.25, 2.0)
    assert value.item() == pytest.approx(0.25 * 300 + 0.75 * 300)
    assert gradient.flatten().tolist() == pytest.approx([0, -0.25, 0.75, 0])


def test_a_logit_that_is_no_number_is_not_hidden(device):
    logits, targets, mask = token_case(device, torch.float32)
    logits[0, 3, mask[0].argmax()] = float("nan")
    assert token_sigmoid_focal_loss(logits, targets, mask, 0.25, 2.0).isnan()
    logits, labels = label_case(device, torch.float32)
    labels[2], logits[2, 3] = 1, float("nan")
    assert sigmoid_focal_loss(logits, labels, 2.0, 0.25).isnan().sum() == 1


@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 5), (2, 4, 0)])
def test_nothing_to_add(shape, device):
    logits, targets, mask = token_case(device, torch.float32, shape)
    value, gradient = value_and_gradient(token_sigmoid_focal_loss, logits, targets, mask, 0.25, 2.0)
    assert value.item() == 0 and gradient.shape == shape


def test_registrations(device):
    logits, targets, mask = token_case(device, torch.float32, (2, 5, 4))
    for text_mask in (mask, None):
        arguments = (targets, text_mask, 0.25, 2.0)
        torch.library.opcheck(OPERATORS.token_sigmoid_focal_loss.default, (logits.clone().requires_grad_(), *arguments))
        torch.library.opcheck(OPERATORS._token_sigmoid_focal_loss_with_gradient.default, (logits, *arguments))
        torch.library.opcheck(OPERATORS._token_sigmoid_focal_loss_with_gradient.default, (logits.half(), *arguments))
    logits, labels = label_case(device, torch.float32)
    arguments = (labels, 2.0, 0.25)
    torch.library.opcheck(OPERATORS.sigmoid_focal_loss.default, (logits.clone().requires_grad_(), *arguments))
    torch.library.opcheck(OPERATORS._sigmoid_focal_loss_backward.default, (logits, logits, *arguments))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiles_without_graph_breaks(dtype, device):
    """Each loss by itself: a compiler may add two gradients in float32 that PyTorch adds in the type of the logits."""
    logits, targets, mask = token_case(device, dtype)
    _, labels = label_case(device, shape=(37, 20))
    for loss in (
        lambda logits: token_sigmoid_focal_loss(logits * 2, targets, mask, 0.25, 2.0),
        lambda logits: sigmoid_focal_loss(logits[0], labels, 2.0, 0.25).sum(),
    ):
        compiled = compile_whole(loss, device)
        torch.testing.assert_close(value_and_gradient(compiled, logits), value_and_gradient(loss, logits))


@pytest.mark.parametrize("dtype", [torch.float64, *LOW_PRECISIONS])
def test_the_registered_operator_has_the_gradient_of_the_function(dtype, device):
    case = (*token_case(device, dtype), 0.25, 2.0)
    direct = value_and_gradient(lambda *arguments: 3 * token_sigmoid_focal_loss(*arguments), *case)
    registered = value_and_gradient(lambda *arguments: 3 * OPERATORS.token_sigmoid_focal_loss(*arguments), *case)
    torch.testing.assert_close(direct, registered, rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(3 * token_sigmoid_focal_loss(*case), direct[0])


def test_small_gradients_survive_until_they_are_scaled(device):
    logits = torch.full((1, 1, 4), -7.0, dtype=torch.float16, device=device, requires_grad=True)
    loss = token_sigmoid_focal_loss(logits, torch.zeros_like(logits), None, 0.25, 2.0)
    (gradient,) = torch.autograd.grad(loss * 2.0**40, logits)
    exact = value_and_gradient(token_definition, logits.detach().double(), logits.new_zeros(1, 1, 4), None, 0.25, 2.0)
    torch.testing.assert_close(gradient.double() * 2.0**-40, exact[1], rtol=1e-2, atol=0)


def test_a_graph_serves_twice_if_it_is_kept(device):
    logits, targets, mask = token_case(device, torch.float32)
    loss = token_sigmoid_focal_loss(logits.requires_grad_(), targets, mask, 0.25, 2.0)
    first = torch.autograd.grad(loss, logits, retain_graph=True)[0].clone()
    twice = torch.autograd.grad(2 * loss, logits, retain_graph=True)[0]
    torch.testing.assert_close(twice, 2 * first, rtol=0, atol=0)
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], first, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, logits)


@pytest.mark.parametrize("operator", [token_sigmoid_focal_loss, OPERATORS.token_sigmoid_focal_loss])
def test_there_is_no_second_derivative(operator, device):
    logits, targets, mask = token_case(device, torch.float32)
    loss = operator(logits.requires_grad_(), targets, mask, 0.25, 2.0) ** 2
    (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


def test_autocast_gives_float32(device):
    logits, targets, mask = token_case(device, torch.bfloat16)
    with torch.autocast(device.type, torch.bfloat16):
        value, gradient = value_and_gradient(token_sigmoid_focal_loss, logits, targets, mask, 0.25, 2.0)
        assert sigmoid_focal_loss(logits[0], mask.new_zeros(37), 2.0, 0.25).dtype == torch.float32
    assert value.dtype == torch.float32 and gradient.dtype == torch.bfloat16
    torch.testing.assert_close(value, token_sigmoid_focal_loss(logits.float(), targets.float(), mask, 0.25, 2.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(2, 3)}, r"logits must have the shape \(B, N, T\), got \(2, 3\)"),
        ({"logits": torch.zeros(2, 3, 4, dtype=torch.int32)}, "logits must be Float, .* got Int"),
        ({"targets": torch.zeros(2, 3, 5)}, r"targets must have the shape \(2, 3, 4\), got \(2, 3, 5\)"),
        ({"mask": torch.ones(2, 3)}, r"text_mask must have the shape \(2, 4\), got \(2, 3\)"),
        ({"mask": torch.ones(2, 4, dtype=torch.complex64)}, "text_mask must be .* got ComplexFloat"),
    ],
)
def test_the_kernels_check_their_arguments(change, message, device):
    skip_without_kernel("token_sigmoid_focal_loss", device)
    case = {"logits": torch.zeros(2, 3, 4), "targets": torch.zeros(2, 3, 4), "mask": torch.ones(2, 4), **change}
    with pytest.raises(RuntimeError, match=message):
        OPERATORS.token_sigmoid_focal_loss(*(tensor.to(device) for tensor in case.values()), 0.25, 2.0)


def test_the_kernel_checks_the_labels(device):
    skip_without_kernel("sigmoid_focal_loss", device)
    logits = torch.zeros(3, 2, device=device)
    with pytest.raises(RuntimeError, match=r"labels must have the shape \(3,\), got \(2,\)"):
        OPERATORS.sigmoid_focal_loss(logits, torch.zeros(2, dtype=torch.int64, device=device), 2.0, 0.25)
    with pytest.raises(RuntimeError, match="labels must be Long or Int, got Float"):
        OPERATORS.sigmoid_focal_loss(logits, torch.zeros(3, device=device), 2.0, 0.25)


@pytest.mark.gpu
def test_tensors_of_two_devices_are_named():
    device = torch.device("cuda")
    skip_without_kernel("token_sigmoid_focal_loss", device)
    logits, targets, mask = token_case(device)
    with pytest.raises(RuntimeError, match="text_mask must be on the device of logits, cuda:0, got cpu"):
        OPERATORS.token_sigmoid_focal_loss(logits, targets, mask.cpu(), 0.25, 2.0)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float64, *LOW_PRECISIONS])
def test_the_gpu_computes_what_the_cpu_does(dtype):
    case = token_case("cpu", dtype, (3, 500, 194))
    expected = value_and_gradient(token_sigmoid_focal_loss, *case, 0.25, 2.0)
    actual = value_and_gradient(token_sigmoid_focal_loss, *(tensor.cuda() for tensor in case), 0.25, 2.0)
    torch.testing.assert_close([tensor.cpu() for tensor in actual], list(expected))


@pytest.mark.gpu
def test_a_recorded_graph_reads_fresh_input():
    def step(logits, targets, mask):
        value = OPERATORS.token_sigmoid_focal_loss(logits, targets, mask, 0.25, 2.0)
        both = OPERATORS._token_sigmoid_focal_loss_with_gradient(logits, targets, mask, 0.25, 2.0)
        gradient = both[1] * (both[0] + value)
        gradient = gradient + value_and_gradient(token_sigmoid_focal_loss, logits, targets, mask, 0.25, 2.0)[1]
        labelled = OPERATORS.sigmoid_focal_loss(logits[0], mask[0, :1].expand(logits.shape[1]), 2.0, 0.25)
        return gradient + OPERATORS._sigmoid_focal_loss_backward(labelled, logits[0], mask.new_ones(37), 2.0, 0.25)

    inputs = list(token_case("cuda", torch.float32))
    fresh = [inputs[0].flip(1), inputs[1].flip(2), inputs[2].flip(1)]
    assert_replays(step, inputs, [tensor.clone() for tensor in fresh])
