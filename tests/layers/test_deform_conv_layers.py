import pytest
import torch
import torch.nn.functional as F

from maskrcnn_benchmark.layers import DeformConv, DFConv2d, ModulatedDeformConv, ModulatedDeformConvPack


def test_keys_and_initial_values():
    torch.manual_seed(0)
    layer = ModulatedDeformConv(16, 8, 3, padding=1, groups=2)
    assert {name: tuple(value.shape) for name, value in layer.state_dict().items()} == {
        "weight": (8, 8, 3, 3),
        "bias": (8,),
    }
    bound = 1 / (16 * 9) ** 0.5
    assert layer.bias.eq(0).all() and 0.9 * bound < layer.weight.abs().max() <= bound
    assert set(DeformConv(4, 4, 3).state_dict()) == {"weight"}
    assert set(DFConv2d(4, 4).state_dict()) == {"offset.weight", "offset.bias", "conv.weight"}


@pytest.mark.parametrize(("stride", "kernel"), [(1, 3), (2, 3), (1, (1, 3))])
def test_without_offset_they_convolve(stride, kernel):
    x = torch.randn(2, 4, 7, 9)
    kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (kh // 2, kw // 2)
    layer = ModulatedDeformConv(4, 6, kernel, stride=stride, padding=padding)
    expected = F.conv2d(x, layer.weight, layer.bias, stride, padding)
    offset, mask = x.new_zeros(2, 2 * kh * kw, *expected.shape[2:]), x.new_ones(2, kh * kw, *expected.shape[2:])
    torch.testing.assert_close(layer(x, offset, mask), expected)
    plain = DeformConv(4, 6, kernel, stride=stride, padding=padding)
    torch.testing.assert_close(plain(x, offset), F.conv2d(x, plain.weight, None, stride, padding))


def test_the_pack_starts_as_half_a_convolution_and_learns_its_offsets():
    layer = ModulatedDeformConvPack(4, 6, 3, padding=1)
    x = torch.randn(2, 4, 5, 5)
    y = layer(x)
    torch.testing.assert_close(y, F.conv2d(x, layer.weight / 2, layer.bias, padding=1))
    y.square().sum().backward()
    assert layer.conv_offset_mask.weight.grad.flatten(1).abs().sum(1).gt(0).all()


@pytest.mark.parametrize("is_modulated", [True, False])
def test_df_conv_predicts_its_own_offsets(is_modulated):
    layer = DFConv2d(4, 6, with_modulated_dcn=is_modulated, stride=2, deformable_groups=2, dilation=2)
    x = torch.randn(2, 4, 9, 8, requires_grad=True)
    y = layer(x)
    assert y.shape == (2, 6, 5, 4)
    y.sum().backward()
    assert layer.offset.weight.grad.abs().sum() > 0
    assert layer.offset.out_channels == (54 if is_modulated else 36)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="no bias"):
        DeformConv(4, 4, 3, bias=True)
    with pytest.raises(ValueError, match="deformable_groups=3 does not divide 4"):
        ModulatedDeformConv(4, 4, 3, deformable_groups=3)
    with pytest.raises(ValueError, match="groups=4 does not divide 6"):
        ModulatedDeformConv(4, 6, 3, groups=4)
