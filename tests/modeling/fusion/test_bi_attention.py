"""Bidirectional fusion against attention written out in the textbook order, values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from tiny_detector import scramble
from torch import Tensor
from triton_interpreter import interpreted_kernels

from maskrcnn_benchmark.modeling.fusion import BiAttentionBlockForCheckpoint, BiMultiHeadAttention, TowerState
from maskrcnn_benchmark.modeling.fusion import bi_attention as bi_attention_module
from maskrcnn_benchmark.ops.kernels.two_way_attention import two_way_attention

V_DIM, L_DIM, EMBED, HEADS = 6, 5, 12, 3
SIZES = [(3, 5), (2, 3), (1, 2), (1, 1), (1, 1)]
MASK = torch.tensor([[1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]])


def attention(**options) -> BiMultiHeadAttention:
    torch.manual_seed(0)
    limits = {"clamp_min": True, "clamp_max": True}
    return scramble(BiMultiHeadAttention(V_DIM, L_DIM, EMBED, HEADS, **limits | options), 0.5).double().eval()


def inputs(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    visual = torch.randn(2, 24, V_DIM, dtype=torch.float64, generator=generator)
    return visual, torch.randn(2, 7, L_DIM, dtype=torch.float64, generator=generator)


def textbook(module: BiMultiHeadAttention, v: Tensor, l: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Queries, keys and values of every head, one similarity matrix, two softmaxes, in the original's order."""

    def heads(x: Tensor) -> Tensor:  # (B, N, E) -> (B, M, N, d)
        return x.reshape(*x.shape[:2], HEADS, -1).transpose(1, 2)

    def clamp(x: Tensor) -> Tensor:
        x = x.clamp(min=-50000) if module.clamp_min else x
        return x.clamp(max=50000) if module.clamp_max else x

    query = heads(module.v_proj(v) * (EMBED // HEADS) ** -0.5)
    similarity = query @ heads(module.l_proj(l)).transpose(2, 3)  # (B, M, N, T)
    if module.stable_softmax_2d:
        similarity = similarity - similarity.max()
    similarity = clamp(similarity)
    over_image = similarity.transpose(2, 3)
    over_image = clamp(over_image - over_image.max(-1, keepdim=True).values).softmax(-1)
    if mask is not None:
        similarity = similarity + torch.where(mask == 0, -9e15, 1.0)[:, None, None]
    over_words = F.dropout(similarity.softmax(-1), module.dropout, module.training)
    over_image = F.dropout(over_image, module.dropout, module.training)
    visual = (over_words @ heads(module.values_l_proj(l))).transpose(1, 2).flatten(2)
    text = (over_image @ heads(module.values_v_proj(v))).transpose(1, 2).flatten(2)
    return module.out_v_proj(visual), module.out_l_proj(text)


def gradients(forward, module: BiMultiHeadAttention) -> list[Tensor]:
    """Gradients of a nonlinear function of both outputs with respect to both inputs and all parameters."""
    leaves = [x.requires_grad_() for x in inputs()]
    visual, text = forward(*leaves, MASK)
    total = visual.sin().sum() + text.cos().sum()
    return list(torch.autograd.grad(total, [*leaves, *module.parameters()]))


@pytest.mark.parametrize("options", [{}, {"stable_softmax_2d": True}, {"clamp_min": False, "clamp_max": False}])
@pytest.mark.parametrize("mask", [None, MASK])
def test_equals_the_textbook(options, mask):
    module = attention(**options)
    for ours, theirs in zip(module(*inputs(), mask), textbook(module, *inputs(), mask), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_gradients_equal_the_textbook():
    module = attention()
    ours = gradients(module, module)
    theirs = gradients(lambda *args: textbook(module, *args), module)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_dropout_also_scales_the_bias_of_the_values(monkeypatch):
    """Attention weights do not sum to one after dropout, so the biases of the values are not just added."""
    # Which weights go depends on their value only, so the two orders of computation drop the same ones.
    monkeypatch.setattr(F, "dropout", lambda x, p, training: torch.where(x > 0.03, x / (1 - p), 0.0) if training else x)
    module = attention(dropout=0.4).train()
    for ours, theirs in zip(module(*inputs(), MASK), textbook(module, *inputs(), MASK), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    kept = module.eval()(*inputs(), MASK)
    assert (kept[1] - module.train()(*inputs(), MASK)[1]).abs().min() > 1e-6
    ours = gradients(module, module)
    theirs = gradients(lambda *args: textbook(module, *args), module)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_dropout_is_on_in_training_only():
    module = attention(dropout=0.5)
    assert torch.equal(module(*inputs())[0], module(*inputs())[0])
    module.train()
    for one, other in zip(module(*inputs()), module(*inputs()), strict=True):
        assert not torch.equal(one, other)


@pytest.mark.parametrize(("clamp_min", "clamp_max"), [(True, True), (False, True), (True, False)])
def test_limits_of_the_similarities(clamp_min, clamp_max):
    """Similarities of a million: only the limited side becomes a tie."""
    module = attention(clamp_min=clamp_min, clamp_max=clamp_max)
    with torch.no_grad():
        module.l_proj.weight.mul_(1e6)
    for ours, theirs in zip(module(*inputs(), MASK), textbook(module, *inputs(), MASK), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_padding_tokens_do_not_reach_the_image():
    module = attention()
    visual, text = inputs()
    changed = text.clone()
    changed[0, 4:] += 5
    ours, theirs = module(visual, text, MASK), module(visual, changed, MASK)
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[1][0, :4], theirs[1][0, :4])
    assert not torch.allclose(ours[1][0, 4:], theirs[1][0, 4:])
    cut = module(visual[:1], text[:1, :4], MASK[:1, :4])
    torch.testing.assert_close(cut[0][0], ours[0][0])
    torch.testing.assert_close(cut[1][0], ours[1][0, :4])


def test_ones_mask_nothing():
    module = attention()
    for ours, theirs in zip(module(*inputs(), torch.ones_like(MASK)), module(*inputs()), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_row_without_words_attends_to_all_alike(dtype):
    module = attention().to(dtype)
    visual, text = (x.to(dtype) for x in inputs())
    mask = MASK.clone()
    mask[0] = 0
    update, text_update = module(visual, text, mask)
    assert update.isfinite().all() and text_update.isfinite().all()
    expected = module.out_v_proj(module.values_l_proj(text[0]).mean(0))
    tolerance = {} if dtype == torch.float64 else {"rtol": 0.05, "atol": 0.1}
    torch.testing.assert_close(update[0], expected.expand_as(update[0]), **tolerance)


@pytest.mark.parametrize("stable", [False, True])
def test_images_of_a_batch_do_not_meet(stable):
    module = attention(stable_softmax_2d=stable)
    visual, text = inputs()
    together = module(visual, text, MASK)
    for i in range(2):
        alone = module(visual[i : i + 1], text[i : i + 1], MASK[i : i + 1])
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one[i], other[0])


class Fused:
    """Stands in for `two_way_attention`, and notes what every element of both weights was multiplied by."""

    def __init__(self):
        self.factors: list[Tensor] = []

    def __call__(self, logits: Tensor, visual: Tensor, *args, **options) -> tuple[Tensor, Tensor, Tensor]:
        state = torch.get_rng_state()
        every = torch.eye(visual.shape[1]).expand(len(visual), -1, -1)
        shown = two_way_attention(torch.zeros_like(logits), every, None, *args[1:], **options)
        words = shown.over_words.unflatten(2, (HEADS, -1)).transpose(1, 2) * MASK.shape[1]
        self.factors = [words, shown.pooled.unflatten(1, (HEADS, -1)) * visual.shape[1]]
        torch.set_rng_state(state)
        return two_way_attention(logits, visual, *args, **options)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_one_kernel_for_both_softmaxes(monkeypatch, dropout):
    """In training on a GPU: the textbook with the same weights dropped, values and gradients."""
    fused = Fused()
    monkeypatch.setattr(bi_attention_module, "two_way_attention", fused)
    module = attention(dropout=dropout).float().train()
    with interpreted_kernels():
        values = module(*(x.float().requires_grad_() for x in inputs()), MASK)
        torch.manual_seed(0)
        ours = gradients(lambda *args: module(args[0].float(), args[1].float(), args[2]), module)
    assert len(fused.factors) == 2 and (fused.factors[1] == 0).any() == (dropout > 0)
    assert all(value.dtype == torch.float32 for value in values)
    factors = fused.factors[:]
    monkeypatch.setattr(F, "dropout", lambda x, p, training: x * factors.pop(0))
    module = module.double()
    theirs = gradients(lambda *args: textbook(module, *args), module)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=1e-4, atol=1e-5)


def test_who_does_not_take_the_kernel(monkeypatch):
    monkeypatch.setattr(bi_attention_module, "two_way_attention", None)
    visual, text = (x.float() for x in inputs())
    with interpreted_kernels():
        attention(stable_softmax_2d=True).float()(visual, text, MASK)
        attention()(*inputs(), MASK)
        with torch.no_grad():
            attention().float()(visual, text, MASK)
    attention().float()(visual, text, MASK)  # on a CPU


@pytest.mark.gpu
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-3), (torch.float16, 2e-2)], ids=str)
def test_one_kernel_for_both_softmaxes_on_gpu(monkeypatch, dtype, tolerance):
    """Against the plain path under autocast, 194 and 101 words; differences by the largest number of their tensor."""
    torch.manual_seed(0)
    module = BiMultiHeadAttention(256, 768, 2048, 8, dropout=0.0, clamp_min=True, clamp_max=True).cuda().train()
    visual, text = torch.randn(2, 3000, 256, device="cuda"), torch.randn(2, 194, 768, device="cuda")
    mask = torch.arange(194, device="cuda") < torch.tensor([[194], [101]], device="cuda")

    def results() -> list[Tensor]:
        leaves = [visual.clone().requires_grad_(), text.clone().requires_grad_()]
        with torch.autocast("cuda", torch.float16, enabled=dtype == torch.float16):
            updates = module(*leaves, mask)
        total = sum((x.float() * 3).sin().sum() for x in updates)
        return [*updates, *torch.autograd.grad(total, [*leaves, *module.parameters()])]

    ours = results()
    monkeypatch.setattr(bi_attention_module, "serves_two_way_attention", lambda *args: False)
    for one, other in zip(ours, results(), strict=True):
        assert one.dtype == other.dtype
        scale = other.abs().max().clamp_min(1e-6)
        torch.testing.assert_close(one / scale, other / scale, rtol=tolerance, atol=tolerance)


def state(seed: int = 3) -> TowerState:
    generator = torch.Generator().manual_seed(seed)
    levels = [torch.randn(2, V_DIM, *size, dtype=torch.float64, generator=generator) for size in SIZES]
    return TowerState(levels, inputs()[1], MASK)


def block(**options) -> BiAttentionBlockForCheckpoint:
    torch.manual_seed(0)
    module = BiAttentionBlockForCheckpoint(V_DIM, L_DIM, EMBED, HEADS, init_value=1 / 6, **options)
    assert (module.gamma_v == 1 / 6).all() and (module.gamma_l == 1 / 6).all()
    return scramble(module, 0.5).double().eval()


def test_the_residual_is_taken_on_the_normalised_streams():
    module, before = block(), state()
    after = module(before)
    flat = torch.cat([level.flatten(2).transpose(1, 2) for level in before.visual], 1)
    visual, text = module.layer_norm_v(flat), module.layer_norm_l(before.hidden)
    updates = textbook(module.attn, visual, text, MASK)
    torch.testing.assert_close(after.hidden, text + module.gamma_l * updates[1])
    expected = (visual + module.gamma_v * updates[0]).transpose(1, 2).split([h * w for h, w in SIZES], dim=2)
    for level, like, rows in zip(after.visual, before.visual, expected, strict=True):
        torch.testing.assert_close(level, rows.reshape(like.shape))
    assert after.masks is before.masks
    assert all(torch.equal(one, other) for one, other in zip(before.visual, state().visual, strict=True))


@pytest.mark.parametrize("outside", [False, True])
def test_separate_levels_start_from_the_same_text(outside):
    """Five attentions with one set of weights; their texts side by side, or merged by the resizer."""
    module, before = block(separate=True, merge_outside=outside), state()
    after = module(before)
    text, texts = module.layer_norm_l(before.hidden), []
    for level, updated in zip(before.visual, after.visual, strict=True):
        visual = module.layer_norm_v(level.flatten(2).transpose(1, 2))
        updates = textbook(module.attn, visual, text, MASK)
        expected = visual + module.gamma_v * updates[0]
        torch.testing.assert_close(updated.flatten(2).transpose(1, 2), expected)
        texts.append(text + module.gamma_l * updates[1])
    joined = torch.cat(texts, -1)
    if outside:
        assert module.shrink_lang is None
        torch.testing.assert_close(after.hidden, joined)
    else:
        resizer = module.shrink_lang
        assert resizer.layer_norm.eps == 1e-12 and resizer.dropout.p == 0.1
        torch.testing.assert_close(after.hidden, resizer.layer_norm(resizer.fc(joined)))


def test_heads_that_do_not_divide_the_width():
    with pytest.raises(ValueError, match="num_heads=5 does not divide embed_dim=12"):
        BiMultiHeadAttention(V_DIM, L_DIM, EMBED, 5)


def test_initial_weights():
    module = BiMultiHeadAttention(V_DIM, L_DIM, 240, 3)
    for linear in module.children():
        assert not linear.bias.any()
        bound = (6 / (linear.in_features + linear.out_features)) ** 0.5
        assert 0.9 * bound < linear.weight.abs().max() <= bound
