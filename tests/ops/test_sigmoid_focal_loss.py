import pytest
import torch
from golden_tools import TOLERANCES, assert_golden, golden_tensor, load_golden

from maskrcnn_benchmark.layers import SigmoidFocalLoss, TokenSigmoidFocalLoss
from maskrcnn_benchmark.ops.sigmoid_focal_loss import sigmoid_focal_loss, token_sigmoid_focal_loss


@pytest.mark.parity
def test_label_version_matches_the_recording():
    npz = load_golden("ops.npz")
    logits = golden_tensor(npz, "focal.label.logits").requires_grad_()
    loss = SigmoidFocalLoss(gamma=2.0, alpha=0.25)(logits, golden_tensor(npz, "focal.label.targets"))
    assert_golden(loss, npz, "focal.label.loss", TOLERANCES["ops"])
    loss.backward()
    assert_golden(logits.grad, npz, "focal.label.grad", TOLERANCES["ops_gradient"])


@pytest.mark.parity
@pytest.mark.parametrize("alpha", ["0.25", "-1"])
def test_token_version_matches_the_recording(alpha):
    npz, name = load_golden("ops.npz"), f"focal.token_binary.alpha{alpha}"
    logits = golden_tensor(npz, f"{name}.logits").requires_grad_()
    targets, mask = golden_tensor(npz, f"{name}.targets"), golden_tensor(npz, f"{name}.text_mask")
    criterion = TokenSigmoidFocalLoss(float(alpha), 2.0)
    loss = criterion(logits, targets, text_masks=mask)
    assert_golden(loss, npz, f"{name}.loss", TOLERANCES["ops"])
    loss.backward()
    assert_golden(logits.grad, npz, f"{name}.grad", TOLERANCES["ops_gradient"])
    assert_golden(criterion(logits, targets), npz, f"{name}.loss_nomask", TOLERANCES["ops"])


@pytest.mark.parity
def test_token_version_with_soft_targets_matches_the_recording():
    npz, name = load_golden("ops.npz"), "focal.token_binary.soft_targets"
    logits, targets, mask = (golden_tensor(npz, f"{name}.{part}") for part in ("logits", "targets", "text_mask"))
    assert_golden(TokenSigmoidFocalLoss(0.25, 2.0)(logits, targets, mask), npz, f"{name}.loss", TOLERANCES["ops"])


def test_labels_background_ignored_and_too_large():
    logits = torch.randn(4, 3, dtype=torch.float64)
    loss = sigmoid_focal_loss(logits, torch.tensor([2, 0, -1, 9]), gamma=2.0, alpha=0.25)
    p = logits.sigmoid()
    positive, negative = -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log()
    expected = negative.clone()
    expected[0, 1] = positive[0, 1]
    expected[2] = 0
    torch.testing.assert_close(loss, expected)


def test_saturated_logits_stay_finite():
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([1, 1]), gamma=2.0, alpha=0.25)
    loss.sum().backward()
    assert loss.isfinite().all() and logits.grad.isfinite().all()
    assert loss[1, 0].item() == pytest.approx(0.25 * 200) and loss[0].sum() == 0


def test_masked_tokens_reach_neither_loss_nor_gradient():
    logits = torch.randn(2, 3, 4)
    logits[1, :, 3] = float("nan")
    logits.requires_grad_()
    targets = torch.zeros(2, 3, 4)
    targets[..., -1] = 1
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    loss = token_sigmoid_focal_loss(logits, targets, mask, 0.25, 2.0)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad[1, :, 2:].eq(0).all() and logits.grad[0, :, 3].lt(0).all()
    expected = token_sigmoid_focal_loss(logits[:1], targets[:1], None, 0.25, 2.0)
    expected = expected + token_sigmoid_focal_loss(logits[1:, :, :2], targets[1:, :, :2], None, 0.25, 2.0)
    torch.testing.assert_close(loss, expected)


def test_gradients(device):
    logits = torch.randn(2, 3, 4, dtype=torch.float64, device=device, requires_grad=True)
    targets = torch.rand(2, 3, 4, dtype=torch.float64, device=device)
    mask = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 1]], device=device)
    for gamma in (2.0, 1.5):
        assert torch.autograd.gradcheck(token_sigmoid_focal_loss, (logits, targets, mask, 0.25, gamma))
    labels = torch.tensor([0, 1, 4, -1, 2, 3], device=device)
    assert torch.autograd.gradcheck(lambda x: sigmoid_focal_loss(x.flatten(0, 1), labels, 2.0, 0.25), logits)


def test_half_precision_is_computed_in_single():
    logits, targets = torch.randn(1, 5, 4).bfloat16(), torch.zeros(1, 5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        loss = TokenSigmoidFocalLoss(0.25, 2.0)(logits, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, token_sigmoid_focal_loss(logits.float(), targets, None, 0.25, 2.0))


def test_no_locations():
    assert sigmoid_focal_loss(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 2.0, 0.25).shape == (0, 3)
    assert token_sigmoid_focal_loss(torch.zeros(1, 0, 3), torch.zeros(1, 0, 3), torch.ones(1, 3), 0.25, 2.0) == 0


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3,\)"):
        sigmoid_focal_loss(torch.zeros(2, 3), torch.zeros(3), 2.0, 0.25)
    with pytest.raises(ValueError, match=r"\(1, 2, 3\) and \(1, 2, 4\)"):
        token_sigmoid_focal_loss(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4), None, 0.25, 2.0)
    with pytest.raises(ValueError, match=r"text_mask must have the shape \(1, 3\).*got \(1, 4\)"):
        token_sigmoid_focal_loss(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), torch.ones(1, 4), 0.25, 2.0)


def test_token_loss_is_called_by_the_name_of_its_version():
    """As notes on the original quote the call, and as they print the module."""
    logits, targets, mask = torch.randn(1, 4, 6), torch.rand(1, 4, 6).round(), torch.ones(1, 6)
    criterion = TokenSigmoidFocalLoss(0.25, 2.0)
    named = criterion(logits, targets, text_masks=mask, version="binary")
    assert torch.equal(named, criterion(logits, targets, mask))
    assert repr(criterion) == "TokenSigmoidFocalLoss(gamma=2.0, alpha=0.25)"
    with pytest.raises(ValueError, match="version='softmax'"):
        criterion(logits, targets, version="softmax")
