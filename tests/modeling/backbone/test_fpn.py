"""The feature pyramid: top-down path, extra levels, DropBlock and its variants, each against a few plain lines."""

import pytest
import torch
import torch.nn.functional as F
from tiny_detector import scramble
from torch import nn

from maskrcnn_benchmark.modeling.backbone import FPN, LastLevelMaxPool, LastLevelP6P7

MAPS = [(3, 27, 41), (4, 14, 21), (5, 7, 11), (6, 4, 6)]  # channels, height, width of C2 to C5


@pytest.fixture
def maps() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, *shape, dtype=torch.float64) for shape in MAPS]


def pyramid(in_channels=(0, 4, 5, 6), top_blocks=True, **options) -> FPN:
    torch.manual_seed(0)
    top = LastLevelP6P7(8, 8) if top_blocks else None
    return scramble(FPN(in_channels, 8, top_blocks=top, **options)).double().eval()


def top_down(fpn: FPN, c3, c4, c5) -> list[torch.Tensor]:
    inner4 = fpn.fpn_inner4(c5)
    inner3 = fpn.fpn_inner3(c4) + F.interpolate(inner4, size=c4.shape[-2:], mode="nearest")
    inner2 = fpn.fpn_inner2(c3) + F.interpolate(inner3, size=c3.shape[-2:], mode="nearest")
    return [fpn.fpn_layer2(inner2), fpn.fpn_layer3(inner3), fpn.fpn_layer4(inner4)]


def test_levels_and_their_sizes(maps):
    """P6 comes from P5, without a ReLU between; P7 from ReLU(P6); P6 itself keeps its negative values."""
    fpn = pyramid()
    levels = fpn(maps)
    assert [tuple(level.shape[-2:]) for level in levels] == [(14, 21), (7, 11), (4, 6), (2, 3), (1, 2)]
    p3, p4, p5 = top_down(fpn, *maps[1:])
    p6 = fpn.top_blocks.p6(p5)
    for level, expected in zip(levels, (p3, p4, p5, p6, fpn.top_blocks.p7(F.relu(p6))), strict=True):
        torch.testing.assert_close(level, expected)
    assert levels[3].min() < 0 and levels[2].min() < 0
    assert isinstance(levels, tuple)


def test_p6_comes_from_c5_where_the_widths_differ(maps):
    fpn = FPN((0, 4, 5, 6), 8, top_blocks=LastLevelP6P7(6, 8)).double().eval()
    torch.testing.assert_close(fpn(maps)[3], fpn.top_blocks.p6(maps[3]))


def test_names_follow_the_index_of_the_map():
    names = {name.split(".")[0] for name in pyramid().state_dict()}
    assert names == {f"fpn_{kind}{i}" for kind in ("inner", "layer") for i in (2, 3, 4)} | {"top_blocks"}
    names = {name.split(".")[0] for name in pyramid((3, 4, 5, 6), top_blocks=False).state_dict()}
    assert names == {f"fpn_{kind}{i}" for kind in ("inner", "layer") for i in (1, 2, 3, 4)}


def test_four_maps_and_every_second_pixel_on_top(maps):
    fpn = FPN((3, 4, 5, 6), 8, top_blocks=LastLevelMaxPool()).double().eval()
    levels = fpn(maps)
    assert [tuple(level.shape[-2:]) for level in levels] == [shape[1:] for shape in MAPS] + [(2, 3)]
    assert torch.equal(levels[4], levels[3][:, :, ::2, ::2])


def test_initialisation():
    """Weights uniform within the bound of kaiming with a = 1, biases zero."""
    fpn = FPN((0, 4, 5, 6), 8, top_blocks=LastLevelP6P7(8, 8))
    for module in fpn.modules():
        if isinstance(module, nn.Conv2d):
            assert not module.bias.any()
            bound = (3 / module.weight[0].numel()) ** 0.5
            assert 0.8 * bound < module.weight.abs().max() <= bound


@pytest.mark.parametrize(("groups", "relu", "keys"), [(4, False, {"0", "1"}), (4, True, {"0", "1"}), (0, True, {"0"})])
def test_norm_and_relu_make_sequences(maps, groups, relu, keys):
    fpn = pyramid(groups=groups, use_relu=relu, eps=1e-3)
    assert {name.split(".")[1] for name in fpn.state_dict() if name.startswith("fpn_inner2")} == keys
    assert ("fpn_inner2.0.bias" in fpn.state_dict()) is (groups == 0)
    if groups:
        assert fpn.fpn_layer3[1].eps == 1e-3 and fpn.fpn_layer3[1].num_groups == groups
    if relu:
        assert all(level.min() >= 0 for level in fpn(maps)[:3])
    torch.testing.assert_close(fpn(maps)[0], top_down(fpn, *maps[1:])[0])


def test_spatial_pyramid_pooling_of_the_coarsest_map(maps):
    fpn = pyramid(use_spp=True)
    assert fpn.fpn_inner4.in_channels == 24
    c5 = maps[3]
    pooled = [F.max_pool2d(c5, k, 1, k // 2) for k in (5, 9, 13)]
    p5 = fpn.fpn_layer4(fpn.fpn_inner4(torch.cat([c5, *pooled], 1)))
    torch.testing.assert_close(fpn(maps)[2], p5)


def test_second_path_upwards(maps):
    fpn = pyramid(use_pan=True)
    p3, p4, p5 = top_down(fpn, *maps[1:])
    p4 = fpn.pan_out_layer2(fpn.pan_in_layer2(p3) + p4)
    p5 = fpn.pan_out_layer3(fpn.pan_in_layer3(p4) + p5)
    for level, expected in zip(fpn(maps), (p3, p4, p5, fpn.top_blocks.p6(p5)), strict=False):
        torch.testing.assert_close(level, expected)
    assert len(fpn.state_dict()) - len(pyramid().state_dict()) == 12


def test_drop_block_spares_the_coarsest_map_and_what_is_passed_down(maps):
    """With nearly everything dropped P5 is untouched, and the finer levels see an undropped sum."""
    fpn = pyramid(drop_block=(0.3, 3)).train()
    seen = []
    handle = fpn.drop_block.register_forward_hook(lambda _m, inputs, output: seen.append((inputs[0], output)))
    levels = fpn(maps)
    handle.remove()
    p5 = top_down(fpn, *maps[1:])[2]
    torch.testing.assert_close(levels[2], p5)
    assert [tuple(x.shape[-2:]) for x, _ in seen] == [(7, 11), (14, 21)]
    inner3 = fpn.fpn_inner3(maps[2]) + F.interpolate(fpn.fpn_inner4(maps[3]), size=(7, 11), mode="nearest")
    torch.testing.assert_close(seen[0][0], inner3)
    inner2 = fpn.fpn_inner2(maps[1]) + F.interpolate(inner3, size=(14, 21), mode="nearest")
    torch.testing.assert_close(seen[1][0], inner2)
    for i, level in enumerate((1, 0)):
        torch.testing.assert_close(levels[level], fpn.get_submodule(f"fpn_layer{3 - i}")(seen[i][1]))
    assert any(not torch.equal(x, dropped) for x, dropped in seen)
    torch.testing.assert_close(fpn.eval()(maps)[0], top_down(fpn, *maps[1:])[0])
