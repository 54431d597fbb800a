"""One-way fusion ("MHA-S"): the text is normalised once more for every level."""

import pytest
import torch
from tiny_detector import scramble

from maskrcnn_benchmark.modeling.fusion import AttentionT2I, MultiHeadAttention, TowerState

Q_DIM, K_DIM, EMBED, HEADS = 6, 5, 8, 2
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])


def state() -> TowerState:
    generator = torch.Generator().manual_seed(1)
    sizes = [(3, 5), (2, 3), (1, 2), (1, 1), (1, 1)]
    levels = [torch.randn(2, Q_DIM, *size, dtype=torch.float64, generator=generator) for size in sizes]
    return TowerState(levels, torch.randn(2, 4, K_DIM, dtype=torch.float64, generator=generator), MASK)


def fusion(init_value: float | None) -> AttentionT2I:
    torch.manual_seed(0)
    module = AttentionT2I(Q_DIM, K_DIM, EMBED, HEADS, init_value=init_value, clamp_min=True, clamp_max=True)
    return scramble(module, 0.5).double().eval()


def attend(module: MultiHeadAttention, query, text, mask):
    """One image: query (N, C), text (T, D), mask (T,)."""
    q, k, v = module.q_proj(query), module.k_proj(text[mask > 0]), module.v_proj(text[mask > 0])
    width = EMBED // HEADS
    out = [
        (q[:, s] @ k[:, s].T / width**0.5).clamp(-50000, 50000).softmax(-1) @ v[:, s]
        for s in (slice(h * width, (h + 1) * width) for h in range(HEADS))
    ]
    return module.out_proj(torch.cat(out, -1))


@pytest.mark.parametrize("init_value", [None, 0.25])
def test_level_i_sees_the_text_normalised_i_plus_one_times(init_value):
    module, before = fusion(init_value), state()
    after = module(before)
    assert after.hidden is before.hidden
    assert (module.gamma is None) is (init_value is None)
    gamma = 1.0 if init_value is None else module.gamma
    text = before.hidden
    for level, updated in zip(before.visual, after.visual, strict=True):
        text = module.layer_norm_k_1(text)
        for i in range(2):
            query = module.layer_norm_q_1(level[i].flatten(1).T)
            expected = query + gamma * attend(module.attn, query, text[i], MASK[i])
            torch.testing.assert_close(updated[i].flatten(1).T, expected)


def test_once_normalised_text_would_differ():
    """The learnt scale and shift of the norm make the second application more than a repetition."""
    module, before = fusion(None), state()
    once = module(before._replace(visual=before.visual[1:2]))
    assert not torch.allclose(once.visual[0], module(before).visual[1])


def test_a_row_without_words_is_finite():
    module, before = fusion(None), state()
    mask = MASK.clone()
    mask[0] = 0
    assert all(level.isfinite().all() for level in module(before._replace(masks=mask)).visual)


def test_heads_that_do_not_divide_the_width():
    with pytest.raises(ValueError, match="num_heads=3 does not divide embed_dim=8"):
        MultiHeadAttention(Q_DIM, K_DIM, EMBED, 3)
