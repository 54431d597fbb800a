import pytest
import torch
from golden_tools import TOLERANCES, assert_golden, golden_tensor, load_golden

from maskrcnn_benchmark.layers import DYReLU, h_sigmoid


@pytest.mark.parity
def test_matches_the_recording():
    npz = load_golden("ops.npz")
    layer = DYReLU(16, 16)
    prefix = "dyrelu.param."
    layer.load_state_dict({n[len(prefix) :]: golden_tensor(npz, n) for n in npz.files if n.startswith(prefix)})
    x = golden_tensor(npz, "dyrelu.x").requires_grad_()
    y = layer(x)
    assert_golden(y, npz, "dyrelu.y", TOLERANCES["ops"])
    y.backward(golden_tensor(npz, "dyrelu.grad_out"))
    assert_golden(x.grad, npz, "dyrelu.grad_x", TOLERANCES["ops_gradient"])
    assert_golden(layer.fc[0].weight.grad, npz, "dyrelu.grad_fc0", TOLERANCES["ops_gradient"])


@pytest.mark.parity
def test_h_sigmoid_matches_the_recording():
    npz = load_golden("ops.npz")
    assert_golden(h_sigmoid()(golden_tensor(npz, "h_sigmoid.x")), npz, "h_sigmoid.y", TOLERANCES["ops"])


def zeroed(**kwargs) -> DYReLU:
    layer = DYReLU(8, 8, **kwargs)
    for parameter in layer.fc.parameters():
        torch.nn.init.zeros_(parameter)
    return layer


@pytest.mark.parametrize("use_bias", [True, False])
def test_without_prediction_it_is_a_relu_or_the_identity(use_bias):
    x = torch.randn(2, 8, 3, 4)
    torch.testing.assert_close(zeroed(use_bias=use_bias)(x), x.relu())
    torch.testing.assert_close(zeroed(use_bias=use_bias, K2=False)(x), x)


@pytest.mark.parametrize(("use_bias", "two", "expected"), [(True, True, 32), (True, False, 16), (False, True, 16)])
def test_coefficients_are_read_in_the_order_slope_offset_slope_offset(use_bias, two, expected):
    layer = zeroed(use_bias=use_bias, K2=two)
    assert layer.fc[2].out_features == expected
    values = torch.linspace(-2, 2, expected)
    with torch.no_grad():
        layer.fc[2].bias.copy_(values)
    theta = h_sigmoid()(values).split(8)
    x = torch.randn(1, 8, 2, 2)
    column = [t[:, None, None] for t in theta]
    if use_bias:
        pieces = [x * (2 * (column[0] - 0.5) + 1) + column[1] - 0.5]
        pieces += [x * 2 * (column[2] - 0.5) + column[3] - 0.5] if two else []
    else:
        pieces = [x * (2 * (column[0] - 0.5) + 1), x * 2 * (column[1] - 0.5)]
    torch.testing.assert_close(layer(x), torch.stack(pieces).amax(0))


def test_spatial_weights_are_at_most_one_and_favour_the_larger_response():
    layer = zeroed(use_spatial=True).eval()
    x = torch.ones(1, 8, 2, 2)
    torch.testing.assert_close(layer(x), x / 3)  # even weights: 4 * 1/4 / 3


def test_keys_and_channels():
    assert set(DYReLU(8, 8).state_dict()) == {"fc.0.weight", "fc.0.bias", "fc.2.weight", "fc.2.bias"}
    with pytest.raises(ValueError, match="inp=8 and oup=4"):
        DYReLU(8, 4)
