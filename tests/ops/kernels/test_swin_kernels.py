"""Kernels of the Swin body and the pyramid against their definitions, at sizes that no tile divides.

On the CPU the launchers call the definitions; `test_interpreted` runs this file again with interpreted kernels.
"""

import pytest
import torch
import torch.nn.functional as F
from interpreted import check_interpreted
from torch import nn

from maskrcnn_benchmark.modeling.backbone.swin import SwinTransformerBlock, shifted_window_mask
from maskrcnn_benchmark.ops.kernels import swin_mlp as mlp_kernel
from maskrcnn_benchmark.ops.kernels.gelu import gelu_
from maskrcnn_benchmark.ops.kernels.patch_embedding import patch_embedding, patch_embedding_reference
from maskrcnn_benchmark.ops.kernels.swin_mlp import MlpWeights, split_width, swin_mlp, swin_mlp_reference
from maskrcnn_benchmark.ops.kernels.swin_norm import (
    LayerNormWeights,
    add_layer_norm,
    add_layer_norm_reference,
    merge_layer_norm,
    merge_layer_norm_reference,
)
from maskrcnn_benchmark.ops.kernels.upsample_add import upsample_add, upsample_add_reference
from maskrcnn_benchmark.ops.kernels.window_attention import (
    Tiling,
    key_blocks,
    window_attention,
    window_attention_reference,
)

TYPES = [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]
CLOSE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def random(*shape: int, device: torch.device, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def norm_weights(width: int, device: torch.device) -> LayerNormWeights:
    return LayerNormWeights(1 + random(width, device=device, seed=8) / 4, random(width, device=device, seed=9), 1e-5)


def assert_near(ours: torch.Tensor, expected: torch.Tensor, scale: float = 1.0) -> None:
    assert ours.dtype == expected.dtype and ours.is_contiguous()
    tolerance = scale * CLOSE[ours.dtype] * expected.abs().max().item()
    torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance)


@pytest.mark.slow
def test_interpreted():
    check_interpreted(__file__)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("terms", ["both", "residual", "branch"])
def test_add_layer_norm(device, dtype, terms):
    rows, width = 37, 96
    residual = random(rows, width, device=device) if terms != "branch" else None
    branch = random(rows, width, device=device, dtype=dtype, seed=1) if terms != "residual" else None
    norm = norm_weights(width, device)
    total, normed = add_layer_norm(residual, branch, norm, dtype)
    expected_total, expected = add_layer_norm_reference(residual, branch, norm, dtype)
    torch.testing.assert_close(total, expected_total, rtol=0, atol=1e-6)
    assert_near(normed, expected)
    nothing, alone = add_layer_norm(residual, branch, norm, dtype, needs_total=False)
    assert nothing is None
    torch.testing.assert_close(alone, normed, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", [(5, 7), (4, 6), (1, 1)])
def test_merge_layer_norm(device, dtype, size):
    tokens, channels = 2 * size[0] * size[1], 24
    residual = random(tokens, channels, device=device)
    branch = random(tokens, channels, device=device, dtype=dtype, seed=1)
    norm = norm_weights(4 * channels, device)
    for change in (branch, None):
        ours = merge_layer_norm(residual, change, norm, dtype, size)
        assert_near(ours, merge_layer_norm_reference(residual, change, norm, dtype, size))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", [(9, 14), (12, 8), (3, 5)])
def test_patch_embedding(device, dtype, size):
    images = random(2, 3, *size, device=device)
    weight = (random(48, 24, device=device, seed=1) / 7).to(dtype)
    bias, norm = random(24, device=device, seed=2), norm_weights(24, device)
    ours = patch_embedding(images, weight, bias, norm, 4)
    operands = images.to(dtype).double(), weight.double(), bias.double()
    exact = LayerNormWeights(norm.weight.double(), norm.bias.double(), norm.eps)
    expected = patch_embedding_reference(*operands, exact, 4)
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=2e-5 if dtype == torch.float32 else 2e-2)


def test_patch_embedding_is_a_convolution(device):
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 24, 4, stride=4).to(device)
    images, norm = random(2, 3, 8, 12, device=device), norm_weights(24, device)
    expected = norm.normalise(convolution(images).permute(0, 2, 3, 1).flatten(0, 2))
    ours = patch_embedding(images, convolution.weight.flatten(1).t().contiguous(), convolution.bias, norm, 4)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-3 if device.type == "cuda" else 1e-5)


def attention_case(size, window, heads, dtype, device):
    channels, length = 16 * heads, window * window
    qkv = random(2 * size[0] * size[1], 3 * channels, device=device, dtype=dtype)
    bias = random(3 * channels, device=device, dtype=dtype, seed=1)
    return qkv, bias, random(heads, length, length, device=device, seed=2)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("size", "window"), [((9, 16), 7), ((7, 14), 7), ((3, 5), 7), ((13, 10), 12), ((5, 4), 3), ((6, 5), 2)]
)
@pytest.mark.parametrize("is_shifted", [False, True])
def test_window_attention(device, dtype, size, window, is_shifted):
    qkv, bias, position_bias = attention_case(size, window, 2, dtype, device)
    arguments = (bias, position_bias, size, window, window // 2 if is_shifted else 0)
    ours = window_attention(qkv, *arguments)
    exact = window_attention_reference(qkv.double(), bias.double(), *arguments[1:])
    assert_near(ours, exact.to(dtype))


@pytest.mark.parametrize("tiling", [Tiling(16, 1, 4, 1), Tiling(32, 3, 4, 2), Tiling(64, 5, 8, 3)])
def test_tilings_of_window_attention_agree(device, tiling):
    """Also where the last program has fewer windows than the others."""
    qkv, bias, position_bias = attention_case((9, 15), 7, 1, torch.float32, device)
    arguments = (qkv, bias, position_bias, (9, 15), 7, 3)
    assert_near(window_attention(*arguments, tiling=tiling), window_attention_reference(*arguments))


@pytest.mark.parametrize("shift", [0, 3])
def test_window_attention_reference_is_the_attention_of_a_block(shift):
    torch.manual_seed(0)
    size, window = (9, 12), 7
    block = SwinTransformerBlock(32, 2, window, shift=shift > 0).double()
    nn.init.normal_(block.attn.qkv.bias)
    x = torch.randn(2, size[0] * size[1], 32, dtype=torch.float64)
    windows, padded = block.to_windows(x, size)
    mask = shifted_window_mask(*padded, window, x.device).double() if shift else None
    block.attn.proj = nn.Identity()
    expected = block.from_windows(block.attn(windows, mask), size, padded).flatten(0, 1)
    arguments = (block.attn.qkv.bias, block.attn.relative_position_bias(), size, window, shift)
    ours = window_attention_reference(block.attn.qkv(x).flatten(0, 1), *arguments)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("length", "blocks"), [(4, (16, 0)), (49, (64, 0)), (64, (64, 0)), (100, (128, 0)), (144, (128, 16))]
)
def test_key_blocks(length, blocks):
    assert key_blocks(length) == blocks


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("sizes", [((9, 14), (5, 7)), ((8, 6), (4, 3)), ((7, 7), (7, 7)), ((25, 3), (13, 1))])
def test_upsample_add(device, dtype, sizes):
    fine = random(2, *sizes[0], 24, device=device, dtype=dtype)
    coarse = random(2, *sizes[1], 24, device=device, dtype=dtype, seed=1)
    torch.testing.assert_close(upsample_add(fine, coarse), upsample_add_reference(fine, coarse), rtol=0, atol=0)


def test_upsample_add_repeats_where_the_size_doubles(device):
    fine, coarse = random(1, 4, 6, 8, device=device), random(1, 2, 3, 8, device=device, seed=1)
    enlarged = F.interpolate(coarse.permute(0, 3, 1, 2), scale_factor=2).permute(0, 2, 3, 1)
    torch.testing.assert_close(upsample_add(fine, coarse), fine + enlarged, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", TYPES)
def test_gelu(device, dtype):
    """Numbers of every sign and size, a length that no block divides: only the rounding of the type is left."""
    x = torch.linspace(-12, 12, 5003, device=device).to(dtype)
    x[:4] = torch.tensor([6e4, 1e3, -6e4, 0.0]).to(dtype)
    expected = F.gelu(x.double())
    ours = gelu_(x.clone()).double()
    bound = {torch.float32: 1e-6, torch.float16: 2**-11, torch.bfloat16: 2**-8}[dtype] * expected.abs() + 5e-6
    assert ((ours - expected).abs() <= bound).all()


def mlp_case(rows, width, dtype, device):
    torch.manual_seed(0)
    fc1, fc2 = nn.Linear(width, 4 * width, device=device), nn.Linear(4 * width, width, device=device)
    mlp = MlpWeights.of(fc1, fc2, dtype, gamma=torch.rand(width, device=device))
    residual = random(rows, width, device=device)
    return residual, random(rows, width, device=device, dtype=dtype, seed=1), norm_weights(width, device), mlp


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", [32, 48, 96])
@pytest.mark.parametrize("tiling", [None, mlp_kernel.Tiling(128, 64, 8, 2)])
def test_swin_mlp(device, dtype, width, tiling):
    residual, branch, norm, mlp = mlp_case(75, width, dtype, device)
    next_norm = LayerNormWeights(norm.bias, norm.weight, 1e-3)
    total, normed = swin_mlp(residual, branch, norm, mlp, next_norm, tiling=tiling)
    expected_total, expected = swin_mlp_reference(residual, branch, norm, mlp, next_norm)
    torch.testing.assert_close(total, expected_total, rtol=0, atol=1e-5 if dtype == torch.float32 else 5e-3)
    assert_near(normed, expected, scale=10 if dtype == torch.float32 else 1)
    alone, nothing = swin_mlp(residual, branch, norm, mlp, None, tiling=tiling)
    assert nothing is None
    torch.testing.assert_close(alone, total, rtol=0, atol=0)


def test_swin_mlp_reference_is_a_residual_branch(device):
    torch.manual_seed(0)
    block = SwinTransformerBlock(32, 2, 7, shift=False, layer_scale=0.5).to(device)
    residual, branch = random(9, 32, device=device), random(9, 32, device=device, seed=1)
    mlp = MlpWeights.of(block.mlp.fc1, block.mlp.fc2, torch.float32, block.gamma)
    total, _ = swin_mlp_reference(residual, branch, LayerNormWeights.of(block.norm2), mlp, None)
    x = residual + branch
    torch.testing.assert_close(total, block.residual(x, block.mlp(block.norm2(x)), block.gamma), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("width", "parts"), [(16, (16, 0)), (48, (32, 16)), (96, (64, 32)), (128, (128, 0)), (192, (128, 64))]
)
def test_split_width(width, parts):
    assert split_width(width) == parts


@pytest.mark.parametrize("width", [8, 24, 112])
def test_widths_that_do_not_split(width):
    with pytest.raises(ValueError, match=f"width={width} "):
        split_width(width)
    assert not mlp_kernel.is_worthwhile(width, 4 * width, torch.float16)
