"""The text layers of the tower: BERT's against transformers' own, CLIP's against plain attention."""

import pytest
import torch
from tiny_detector import scramble
from torch import Tensor
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from maskrcnn_benchmark.modeling.fusion import BertEncoderLayer, CLIPTransformerLayer, DummyLayer, TowerState

DIM, HEADS, HIDDEN = 12, 3, 20
MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])


def state(mask: Tensor = MASK, scale: float = 1.0, dim: int = DIM) -> TowerState:
    generator = torch.Generator().manual_seed(1)
    hidden = scale * torch.randn(*mask.shape, dim, dtype=torch.float64, generator=generator)
    return TowerState([], hidden, mask)


def bert_pair(**limits) -> tuple[BertEncoderLayer, BertLayer]:
    """Our layer and the library's with the same weights."""
    torch.manual_seed(0)
    sizes = {"hidden_size": DIM, "num_attention_heads": HEADS, "intermediate_size": HIDDEN, "layer_norm_eps": 1e-12}
    theirs = scramble(BertLayer(BertConfig(**sizes, attn_implementation="eager")), 0.3)
    ours = BertEncoderLayer(DIM, HEADS, HIDDEN, **limits)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours.double().eval(), theirs.double().eval()


@pytest.mark.parametrize("limits", [{}, {"clamp_min": True, "clamp_max": True}])
def test_equals_the_layer_of_transformers(limits):
    ours, theirs = bert_pair(**limits)
    additive = (1.0 - MASK[:, None, None].double()) * torch.finfo(torch.float64).min
    expected = theirs(state().hidden, additive)
    expected = expected[0] if isinstance(expected, tuple) else expected
    torch.testing.assert_close(ours(state()).hidden, expected)


def test_padding_does_not_reach_the_words():
    ours, _ = bert_pair()
    before = state()
    changed = before.hidden.clone()
    changed[0, 4:] += 3
    torch.testing.assert_close(ours(before._replace(hidden=changed)).hidden[0, :4], ours(before).hidden[0, :4])


def test_activations_end_at_50000():
    """Every activation outside of the attention is limited; with eps 1e-12 the rest of the layer stays exact."""
    ours, _ = bert_pair()
    with torch.no_grad():
        ours.intermediate.dense.weight.mul_(1e9)
        ours.output.LayerNorm.weight.mul_(1e9)
    x = ours.attention(state().hidden, MASK)
    u = ours.intermediate.dense(x).clamp(-50000, 50000)
    u = torch.nn.functional.gelu(u).clamp(-50000, 50000)
    assert u.max() == 50000
    out = ours.output.LayerNorm(ours.output.dense(u).clamp(-50000, 50000) + x).clamp(-50000, 50000)
    assert out.abs().max() == 50000
    torch.testing.assert_close(ours(state()).hidden, out)


@pytest.mark.parametrize("clamped", [False, True])
def test_limits_of_the_logits(clamped):
    """Above the limit all words weigh the same; without it the largest logit takes all."""
    ours, _ = bert_pair(clamp_min=clamped, clamp_max=clamped)
    attention = ours.attention.self
    with torch.no_grad():
        attention.query.weight.mul_(1e7)
    x, mask = state().hidden, torch.ones_like(MASK)
    width = DIM // HEADS
    context = attention(x, mask)
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        logits = attention.query(x)[..., part] @ attention.key(x)[..., part].transpose(1, 2) / width**0.5
        logits = logits.clamp(-50000, 50000) if clamped else logits
        torch.testing.assert_close(context[..., part], logits.softmax(-1) @ attention.value(x)[..., part])


@pytest.mark.parametrize("empty", [0, slice(None)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_row_without_words_is_finite(dtype, empty):
    mask = MASK.clone()
    mask[empty] = 0
    bert = BertEncoderLayer(DIM, HEADS, HIDDEN).to(dtype).eval()
    clip = CLIPTransformerLayer(DIM, 2).to(dtype).eval()
    for layer in (bert, clip):
        before = state(mask)
        before = before._replace(hidden=before.hidden.to(dtype))
        assert layer(before).hidden.isfinite().all()
        with torch.no_grad():
            assert layer(before).hidden.isfinite().all()


def clip_layer() -> CLIPTransformerLayer:
    torch.manual_seed(0)
    return scramble(CLIPTransformerLayer(DIM, HEADS), 0.3).double().eval()


def test_clip_layer_sees_both_sides_and_no_padding():
    layer, before = clip_layer(), state()
    after = layer(before).hidden
    width = DIM // HEADS
    for i, words in enumerate((4, 6)):
        x = before.hidden[i, :words]
        y = layer.ln_1(x)
        q, k, v = (y @ layer.attn.in_proj_weight.T + layer.attn.in_proj_bias).chunk(3, -1)
        out = [
            (q[:, s] @ k[:, s].T / width**0.5).softmax(-1) @ v[:, s]
            for s in (slice(h * width, (h + 1) * width) for h in range(HEADS))
        ]
        x = x + layer.attn.out_proj(torch.cat(out, -1))
        u = layer.mlp.c_fc(layer.ln_2(x))
        x = x + layer.mlp.c_proj(u * torch.sigmoid(1.702 * u))
        torch.testing.assert_close(after[i, :words], x)


def test_clip_layer_starts_from_small_weights():
    torch.manual_seed(0)
    layer = CLIPTransformerLayer(48, 4)
    for name, parameter in layer.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "ln" not in name and "in_proj" not in name:  # PyTorch's own start for the joint projection
            assert 0.01 < parameter.std() < 0.03, name
    assert layer.ln_1.eps == 1e-12


def test_dummy_layer_changes_nothing():
    before = state()
    assert DummyLayer()(before) is before and not DummyLayer().state_dict()
