"""The kernels of text against their definitions and against PyTorch's own modules."""

import pytest
import torch
import torch.nn.functional as F
from triton_interpreter import interpreted_kernels

from maskrcnn_benchmark.ops.kernels import word_attention, word_norm
from maskrcnn_benchmark.ops.kernels.folded_words import Limits, padded_words

NO_LIMITS = Limits(False, False)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def words_mask(words, *lengths):
    return (torch.arange(words) < torch.tensor(lengths)[:, None]).long()


@pytest.mark.parametrize("words, lengths", [(1, (1,)), (17, (17, 5)), (70, (70, 33))])
def test_word_attention(words, lengths):
    torch.manual_seed(0)
    batch, heads, mask = len(lengths), 2, words_mask(words, *lengths)
    qkv = torch.randn(batch, words, 3 * heads * 16)
    query, key, value = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in qkv.chunk(3, -1))
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask.bool()[:, None, None])
    expected = expected.transpose(1, 2).flatten(2)
    close(word_attention.word_attention(qkv, mask, heads, NO_LIMITS), expected)
    with interpreted_kernels():
        close(word_attention.word_attention(qkv, mask, heads, NO_LIMITS), expected)
        close(word_attention.word_attention(qkv, mask.bool(), heads, Limits(True, True)), expected)


def test_word_attention_limits_and_text_without_words():
    torch.manual_seed(0)
    qkv = torch.randn(2, 20, 3 * 16) * 1000
    mask = words_mask(20, 20, 0)
    limits = Limits(True, True)
    expected = word_attention.word_attention_reference(qkv.double(), mask, 1, limits).float()
    close(expected[1], qkv[1, :, 32:].mean(0).expand(20, -1))
    unlimited = word_attention.word_attention_reference(qkv.double(), mask, 1, NO_LIMITS).float()
    assert not torch.allclose(expected[0], unlimited[0])
    with interpreted_kernels():
        torch.testing.assert_close(word_attention.word_attention(qkv, mask, 1, limits), expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("is_limited", [False, True])
def test_post_layer_norm(is_limited):
    torch.manual_seed(0)
    update, residual, (bias, weight, norm_bias) = torch.randn(5, 48), torch.randn(5, 48), torch.randn(3, 48)
    update[0, 0], norm_bias[0] = 1e5, 1e6
    sums = update + bias
    expected = F.layer_norm(residual + (sums.clamp(max=50000) if is_limited else sums), (48,), weight, norm_bias, 1e-5)
    if is_limited:
        expected = expected.clamp(max=50000)
    arguments = (update, bias, residual, (weight, norm_bias, 1e-5), torch.bfloat16)
    flags = {"limit_update": is_limited, "limit_result": is_limited}
    definition = word_norm.post_layer_norm(*arguments, **flags)
    with interpreted_kernels():
        found = word_norm.post_layer_norm(*arguments, **flags)
    for full, operand in (definition, found):
        torch.testing.assert_close(full, expected, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(operand, full.bfloat16())


def test_normalise_words():
    torch.manual_seed(0)
    text, mask = torch.randn(2, 18, 48), words_mask(18, 18, 7)
    weight, bias, addend = torch.randn(3, 48)
    head_weight, head_bias = torch.randn(3, 48), torch.randn(3)
    normed = F.layer_norm(text, (48,), weight, bias, 1e-5)
    arguments = (text, mask, (weight, bias, 1e-5), (head_weight, head_bias), addend, torch.float16)
    definition = word_norm.normalise_words(*arguments)
    with interpreted_kernels():
        found = word_norm.normalise_words(*arguments)
    for residual, operand, offsets in (definition, found):
        close(residual, normed + addend)
        torch.testing.assert_close(operand, normed.half(), rtol=1e-3, atol=1e-3)
        assert offsets.shape == (2, 3, padded_words(18))
        assert torch.equal(offsets.isfinite()[:, 0].sum(1), torch.tensor([18, 7]))
        close(offsets[1, :, :7], (normed[1, :7] @ head_weight.T + head_bias).T)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype, dot, tolerance", [(torch.bfloat16, "tf32", 2e-2), (torch.float32, "ieee", 1e-5)])
def test_word_attention_on_gpu(dtype, dot, tolerance):
    torch.manual_seed(0)
    qkv, mask = torch.randn(2, 194, 3 * 768).to("cuda", dtype), words_mask(194, 194, 30).cuda()
    expected = word_attention.word_attention_reference(qkv.double(), mask, 12, NO_LIMITS)
    found = word_attention.word_attention(qkv, mask, 12, NO_LIMITS, dot=dot)
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
