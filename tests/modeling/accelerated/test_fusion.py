"""Accelerated fusion and text layers against the plain modules."""

import pytest
import torch
from triton_interpreter import interpreted_kernels

from maskrcnn_benchmark.modeling.accelerated import fusion
from maskrcnn_benchmark.modeling.accelerated.fusion import attend_exactly
from maskrcnn_benchmark.modeling.accelerated.precision import find_precision
from maskrcnn_benchmark.modeling.fusion.bi_attention import BiAttentionBlockForCheckpoint
from maskrcnn_benchmark.modeling.fusion.state import TowerState
from maskrcnn_benchmark.modeling.fusion.text_layer import BertEncoderLayer
from maskrcnn_benchmark.ops.kernels.folded_words import FoldedWords, Limits, padded_words
from maskrcnn_benchmark.ops.kernels.image_update import image_update_reference
from maskrcnn_benchmark.ops.kernels.text_update import pool_locations_reference


def build_block(v_dim=16, l_dim=24, embed_dim=32, num_heads=2, **settings):
    torch.manual_seed(0)
    block = BiAttentionBlockForCheckpoint(v_dim, l_dim, embed_dim, num_heads, init_value=0.5, **settings).eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return block.requires_grad_(False)


def build_inputs(locations=37, words=9, lengths=(9, 4), v_dim=16, l_dim=24):
    mask = (torch.arange(words) < torch.tensor(lengths)[:, None]).long()
    return torch.randn(len(lengths), locations, v_dim), torch.randn(len(lengths), words, l_dim), mask


def run_both(block, visual, text, mask, precision):
    accelerated = fusion.AcceleratedFusion(block, precision)
    weight, bias, eps = accelerated.norm
    normed = torch.nn.functional.layer_norm(visual, weight.shape, weight, bias, eps).to(precision.dtype)
    return block.attend(visual, text, mask), accelerated(normed, text, mask)


@pytest.mark.parametrize("is_interpreted", [False, True])
@pytest.mark.parametrize("settings", [{}, {"clamp_min": True, "clamp_max": True}, {"stable_softmax_2d": True}])
def test_fusion_equals_plain_block(settings, is_interpreted):
    block, (visual, text, mask) = build_block(**settings), build_inputs()
    assert fusion.supports(block) is None
    precision = find_precision("fp32")
    if is_interpreted:
        with interpreted_kernels():
            expected, found = run_both(block, visual, text, mask, precision)
    else:
        expected, found = run_both(block, visual, text, mask, precision)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    is_word = mask.bool()
    torch.testing.assert_close(found[1][is_word], expected[1][is_word], rtol=1e-4, atol=1e-5)
    assert found[1].isfinite().all()


def test_fusion_in_16_bits_keeps_the_text_in_float32():
    block, (visual, text, mask) = build_block(), build_inputs()
    expected, found = run_both(block, visual, text, mask, find_precision("bf16"))
    assert found[0].dtype == torch.bfloat16 and found[1].dtype == torch.float32
    torch.testing.assert_close(found[0].float(), expected[0], rtol=3e-2, atol=3e-2)
    torch.testing.assert_close(found[1][mask.bool()], expected[1][mask.bool()], rtol=3e-2, atol=3e-2)


def test_unsupported_fusion_is_named():
    assert "levels" in fusion.supports(build_block(separate=True))
    assert "limits" in fusion.supports(build_block(stable_softmax_2d=True, clamp_max=True))
    assert "Identity" in fusion.supports(torch.nn.Identity())


@pytest.mark.parametrize("is_clamped", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_text_layer_equals_plain_layer(scale, is_clamped):
    torch.manual_seed(0)
    layer = BertEncoderLayer(32, 2, 64, clamp_min=is_clamped, clamp_max=is_clamped).eval().requires_grad_(False)
    layer.intermediate.dense.weight *= scale  # large enough for the limits to act
    _, text, mask = build_inputs(l_dim=32)
    expected = layer(TowerState([], text, mask)).hidden
    accelerated = fusion.AcceleratedTextLayer(layer, find_precision("fp32"))
    torch.testing.assert_close(accelerated(text, mask), expected, rtol=1e-4, atol=1e-5)
    with interpreted_kernels():
        torch.testing.assert_close(accelerated(text, mask), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("name, tolerance", [("bf16", 2e-2), ("fp16", 2.5e-3), ("tf32", 2.5e-3), ("fp32", 2e-5)])
def test_fusion_on_gpu_replays_in_a_graph(name, tolerance):
    block = build_block(256, 768, 2048, 8, clamp_min=True, clamp_max=True).cuda()
    precision = find_precision(name)
    accelerated = fusion.AcceleratedFusion(block, precision)
    weight, bias, eps = accelerated.norm

    def inputs():
        visual, text, mask = (x.cuda() for x in build_inputs(1111, 50, (50, 20), 256, 768))
        normed = torch.nn.functional.layer_norm(visual, weight.shape, weight, bias, eps)
        return visual, normed.to(precision.dtype), text, mask

    _, *static = inputs()
    accelerated(*static)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = accelerated(*static)
    visual, *fresh = inputs()
    for target, source in zip(static, fresh, strict=True):
        target.copy_(source)
    graph.replay()
    for replayed, directly in zip(outputs, accelerated(*fresh), strict=True):
        torch.testing.assert_close(replayed, directly, rtol=1e-6, atol=1e-6)
    expected = block.attend(visual, fresh[1], fresh[2])
    is_word = fresh[2].bool()
    for found, exact in ((outputs[0].float(), expected[0]), (outputs[1][is_word], expected[1][is_word])):
        assert (found - exact).norm() <= tolerance * exact.norm()


@pytest.mark.parametrize("limits", [Limits(True, True), Limits(False, True), Limits(False, False)])
def test_exact_attention_equals_the_definitions(limits):
    generator = torch.Generator().manual_seed(0)
    batch, locations, num_words, heads, channels = 3, 37, 11, 2, 16
    visual = torch.randn(batch, locations, channels, generator=generator)
    offsets = torch.randn(batch, heads, padded_words(num_words), generator=generator)
    offsets[0, :, 7:] = -torch.inf
    offsets[1:, :, num_words:] = -torch.inf
    folded = torch.randn(batch, num_words, 2, heads, channels, generator=generator)
    folded[2] *= 1e5  # beyond the limits
    words, bias = FoldedWords(folded, offsets), torch.randn(channels, generator=generator)
    updated, pooled = attend_exactly(visual, words, bias, limits)
    torch.testing.assert_close(updated, image_update_reference(visual, words, bias, limits), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pooled, pool_locations_reference(visual, words, limits), rtol=1e-4, atol=1e-5)


def test_exact_attention_to_a_text_without_words_is_finite():
    words = FoldedWords(torch.randn(1, 3, 2, 2, 16), torch.full((1, 2, padded_words(3)), -torch.inf))
    updated, pooled = attend_exactly(torch.randn(1, 5, 16), words, torch.zeros(16), Limits(True, True))
    assert updated.isfinite().all() and not pooled.any()
