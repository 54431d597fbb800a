"""Dynamic convolution against loops over output pixels and kernel taps that read the offsets as the original does."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_detector import scramble
from torch import Tensor, nn

from maskrcnn_benchmark.layers import DYReLU
from maskrcnn_benchmark.modeling.fusion import TowerState
from maskrcnn_benchmark.modeling.heads.dyconv import Conv3x3Norm, DyConv, reinterpret_offsets

CHANNELS = 8
SIZES = [(5, 9), (3, 5), (2, 3), (1, 2), (1, 1)]  # every halving rounds up


def pyramid(batch: int, sizes=tuple(SIZES), channels: int = CHANNELS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return [torch.randn(batch, channels, *size, dtype=torch.float64, generator=generator) for size in sizes]


def dyconv(**options) -> DyConv:
    torch.manual_seed(0)
    module = DyConv(CHANNELS, CHANNELS, num_groups=2, **options)
    return scramble(module, 0.3).double()


def sample(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """(C, H, W) at one position: bilinear, zero from one pixel outside on."""
    height, width = image.shape[1:]
    result = image.new_zeros(image.shape[0])
    if not (-1 < y < height and -1 < x < width):
        return result
    top, left = math.floor(y.item()), math.floor(x.item())
    for row, weight_y in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, weight_x in ((left, 1 - (x - left)), (left + 1, x - left)):
            if 0 <= row < height and 0 <= column < width:
                result = result + weight_y * weight_x * image[:, row, column]
    return result


def raw_buffer_conv(conv: nn.Module, x: Tensor, offset: Tensor, mask: Tensor, stride: int) -> Tensor:
    """One image (C, H, W). The offset and mask buffers are read with the size of the output, whatever theirs is."""
    height, width = ((n - 1) // stride + 1 for n in x.shape[1:])
    offsets, masks = offset.contiguous().view(-1), mask.contiguous().view(-1)
    area, columns = height * width, []
    for y in range(height):
        for c in range(width):
            place, column = y * width + c, []
            for tap in range(9):
                dy, dx = offsets[2 * tap * area + place], offsets[(2 * tap + 1) * area + place]
                value = sample(x, y * stride - 1 + tap // 3 + dy, c * stride - 1 + tap % 3 + dx)
                column.append(masks[tap * area + place] * value)
            columns.append(torch.stack(column, 1).flatten())  # (C * 9)
    out = torch.stack(columns) @ conv.weight.flatten(1).T + conv.bias
    return out.T.reshape(-1, height, width)


def branch(module: DyConv, index: int, x: Tensor, offset: Tensor | None, mask: Tensor | None) -> Tensor:
    """One convolution with its norm on one image."""
    stride, layer = (1, 1, 2)[index], module.DyConv[index]
    if offset is None:
        out = F.conv2d(x[None], layer.conv.weight, layer.conv.bias, stride=stride, padding=1)[0]
    else:
        out = raw_buffer_conv(layer.conv, x, offset, mask, stride)
    return out if layer.bn is None else layer.bn(out[None])[0]


def reference(module: DyConv, levels: list[Tensor]) -> list[Tensor]:
    """The new levels, image by image, level by level."""
    results = []
    for l, level in enumerate(levels):
        images = []
        for b in range(len(level)):
            offset = mask = None
            if module.offset is not None:
                predicted = module.offset(level[b : b + 1])[0]
                offset, mask = predicted[:18], predicted[18:27].sigmoid()
            terms = [branch(module, 1, level[b], offset, mask)]
            if l > 0:
                terms.append(branch(module, 2, levels[l - 1][b], offset, mask))
            if l + 1 < len(levels):
                coarser = branch(module, 0, levels[l + 1][b], offset, mask)[None]
                terms.append(F.interpolate(coarser, level.shape[-2:], mode="bilinear", align_corners=True)[0])
            if module.AttnConv is not None:
                conv = module.AttnConv[1]
                logits = [(conv.weight[0, :, 0, 0] @ t.mean((1, 2)) + conv.bias).relu() for t in terms]
                terms = [(z + 3).clamp(0, 6) / 6 * t for z, t in zip(logits, terms, strict=True)]
            images.append(sum(terms) / len(terms))
        results.append(module.relu(torch.stack(images)))
    return results


@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_equals_the_loops_over_raw_buffers(batch):
    module, levels = dyconv(), pyramid(batch)
    for ours, expected in zip(module.mix_levels(levels), reference(module, levels), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_gradients_flow_to_the_numbers_that_were_read():
    module, levels = dyconv(), pyramid(2, ((3, 5), (2, 3), (1, 2)))
    leaves = [level.requires_grad_() for level in levels] + list(module.parameters())
    ours, theirs = (
        torch.autograd.grad(sum(out.sin().sum() for out in run(levels)), leaves)
        for run in (module.mix_levels, lambda x: reference(module, x))
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"use_dyfuse": False}, id="no-scale-attention"),
        pytest.param({"use_dyrelu": False}, id="relu"),
        pytest.param({"use_deform": False}, id="plain-convolutions"),
        pytest.param({"norm": ""}, id="no-norm"),
    ],
)
@torch.no_grad()
def test_variants(options):
    module, levels = dyconv(**options), pyramid(2, SIZES[1:])
    assert (module.AttnConv is None) is ("use_dyfuse" in options)
    assert isinstance(module.relu, DYReLU) is not ("use_dyrelu" in options)
    assert (module.offset is None) is ("use_deform" in options)
    for ours, expected in zip(module.mix_levels(levels), reference(module, levels), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("batch", [1, 3])
def test_reinterpretation_takes_the_head_of_each_flattened_image(batch):
    offset = torch.arange(batch * 18 * 5 * 9.0).reshape(batch, 18, 5, 9)
    mask = torch.arange(batch * 9 * 5 * 9.0).reshape(batch, 9, 5, 9)
    offsets, masks = reinterpret_offsets(offset, mask, (3, 5))
    for b in range(batch):
        assert offsets[b].flatten().tolist() == [b * 18 * 45 + i for i in range(18 * 15)]
        assert masks[b].flatten().tolist() == [b * 9 * 45 + i for i in range(9 * 15)]
    strided = offset.to(memory_format=torch.channels_last)
    assert torch.equal(reinterpret_offsets(strided, mask, (3, 5))[0], offsets)


@torch.no_grad()
def test_memory_layout_and_number_of_levels():
    module, levels = dyconv(), pyramid(2)
    expected = module.mix_levels(levels)
    strided = module.mix_levels([level.to(memory_format=torch.channels_last) for level in levels])
    for one, other in zip(strided, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert [level.shape for level in module.mix_levels(levels[:1])] == [levels[0].shape]
    state = TowerState(levels, torch.zeros(2, 3, 4), torch.ones(2, 3))
    after = module(state)
    assert after.hidden is state.hidden and all(map(torch.equal, after.visual, expected))


def test_images_of_a_batch_do_not_meet():
    module, levels = dyconv(), pyramid(3)
    together = module.mix_levels(levels)
    for b in range(3):
        for one, other in zip(together, module.mix_levels([level[b : b + 1] for level in levels]), strict=True):
            torch.testing.assert_close(one[b], other[0])


def test_widths():
    """Only plain convolutions can change the width, and then there is no DyReLU and no scale attention."""
    with pytest.raises(ValueError, match="equal widths, got 4 and 8.*MODEL.DYHEAD.CHANNELS"):
        DyConv(4, 8, num_groups=2)
    module = DyConv(4, 8, num_groups=2, use_deform=False)
    assert module.AttnConv is None and type(module.relu) is nn.ReLU
    assert [out.shape[1] for out in module.mix_levels([level.float() for level in pyramid(1, channels=4)])] == [8] * 5


def test_initial_weights():
    torch.manual_seed(0)
    module = DyConv(64, 64)
    bound = 1 / (64 * 9) ** 0.5
    for layer in module.DyConv:
        assert 0.9 * bound < layer.conv.weight.abs().max() <= bound and not layer.conv.bias.any()
        assert layer.bn.num_groups == 16 and layer.bn.eps == 1e-5
    assert module.AttnConv[1].weight.std() < 0.02 and not module.AttnConv[1].bias.any()
    assert module.offset.weight.abs().max() > 0.9 * bound and module.offset.bias.any()
    assert [layer.conv.stride for layer in module.DyConv] == [1, 1, 2]
    plain = DyConv(64, 64, use_deform=False)
    assert all(0.005 < layer.conv.weight.std() < 0.02 for layer in plain.DyConv)


@pytest.mark.parametrize(
    ("norm", "kind"), [("gn", nn.GroupNorm), ("nsync_bn", nn.BatchNorm2d), ("sync_bn", nn.SyncBatchNorm), ("", None)]
)
def test_norms(norm, kind):
    layer = Conv3x3Norm(8, 8, 1, deformable=False, norm=norm, num_groups=2)
    assert layer.bn is None if kind is None else isinstance(layer.bn, kind)
