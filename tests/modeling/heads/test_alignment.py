"""The branches on the tower's output: agreement with words, boxes, classes, masked words."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_detector import scramble
from torch import nn

from maskrcnn_benchmark.layers import Scale
from maskrcnn_benchmark.modeling.fusion import TowerState
from maskrcnn_benchmark.modeling.heads.alignment import contrastive_align_logits, dot_product_logits, flatten_anchors
from maskrcnn_benchmark.modeling.heads.box import prior_bias, regress_boxes
from maskrcnn_benchmark.modeling.heads.mlm import BertLMPredictionHead
from maskrcnn_benchmark.modeling.rpn.vldyhead import VLDyHead

CHANNELS, TEXT_DIM, TOKENS = 6, 5, 4
SIZES = [(3, 5), (2, 3), (1, 2), (1, 1), (1, 1)]


def head(**options) -> VLDyHead:
    torch.manual_seed(0)
    defaults = {"channels": CHANNELS, "text_dim": TEXT_DIM, "num_classes": 7, "use_dot_product": True}
    return scramble(VLDyHead(nn.Sequential(), **defaults | options), 0.3).double().eval()


def state() -> TowerState:
    generator = torch.Generator().manual_seed(1)
    levels = [torch.randn(2, CHANNELS, *size, dtype=torch.float64, generator=generator) for size in SIZES]
    hidden = torch.randn(2, TOKENS, TEXT_DIM, dtype=torch.float64, generator=generator)
    return TowerState(levels, hidden, torch.ones(2, TOKENS))


def test_dot_product_equals_the_formula():
    module, tower = head(), state()
    outputs = module.predict(tower)
    for level, logits in zip(tower.visual, outputs.dot_product_logits, strict=True):
        height, width = level.shape[-2:]
        assert logits.shape == (2, height * width, TOKENS)
        for b in range(2):
            for j in range(TOKENS):
                e = tower.hidden[b, j] / tower.hidden[b, j].norm()
                t = module.dot_product_projection_text.weight @ (e / 2) + module.dot_product_projection_text.bias
                bias = e @ module.bias_lang + module.bias0
                expected = torch.stack([x @ t for x in level[b].flatten(1).T]) / module.log_scale.exp() + bias
                torch.testing.assert_close(logits[b, :, j], expected)


def test_word_of_zeros_has_the_projection_bias_only():
    """A text row of zeros stays finite: x . b / temperature + bias0."""
    module, tower = head(), state()
    tower.hidden[0, 2] = 0
    logits = module.predict(tower).dot_product_logits
    projection = module.dot_product_projection_text.bias
    for level, level_logits in zip(tower.visual, logits, strict=True):
        expected = level[0].flatten(1).T @ projection / module.log_scale.exp() + module.bias0
        torch.testing.assert_close(level_logits[0, :, 2], expected)


@pytest.mark.parametrize("clamp", [False, True])
def test_limit_of_the_dot_product(clamp):
    module, tower = head(clamp_dot_product=clamp), state()
    with torch.no_grad():
        module.dot_product_projection_text.weight.mul_(1e7)
    logits = torch.cat(module.predict(tower).dot_product_logits, 1)
    assert (logits.abs().max() == 50000) if clamp else (logits.abs().max() > 1e6)


def test_gradient_stops_at_the_limit():
    words = torch.full((1, 1, 2), 1e6, requires_grad=True)
    logits = dot_product_logits([torch.ones(1, 2, 1, 1)], words, torch.zeros(1, 1), torch.zeros(1), clamp=True)[0]
    logits.sum().backward()
    assert logits.item() == 50000 and not words.grad.any()


@pytest.mark.parametrize("fused", [True, False])
def test_which_text_is_compared(fused):
    """The text after the tower with fused features, otherwise the embedding that came from the encoder."""
    module, tower = head(use_fused_text=fused), state()
    embedding = torch.randn(2, TOKENS, TEXT_DIM, dtype=torch.float64)
    ours = module.predict(tower, embedding).dot_product_logits
    text = tower.hidden if fused else embedding
    for one, other in zip(ours, head().predict(tower._replace(hidden=text)).dot_product_logits, strict=True):
        torch.testing.assert_close(one, other)


def test_start_of_the_dot_product():
    module = VLDyHead(nn.Sequential(), channels=CHANNELS, text_dim=TEXT_DIM, use_dot_product=True, log_scale=0.5)
    assert module.log_scale.tolist() == [0.5] and not module.bias_lang.any()
    assert module.bias0.item() == pytest.approx(-4.59512, abs=1e-5) == prior_bias(0.01)
    assert not list(module.dot_product_projection_image.parameters())


def test_contrastive_align_equals_the_formula():
    module = head(use_dot_product=False, use_fused_text=False, contrastive_dim=3)
    tower, embedding = state(), torch.randn(2, TOKENS, CHANNELS, dtype=torch.float64)
    outputs = module.predict(tower, embedding)
    words = F.normalize(module.contrastive_align_projection_text(embedding), dim=-1)
    torch.testing.assert_close(outputs.proj_tokens, words)
    assert outputs.dot_product_logits is None
    for level, logits in zip(tower.visual, outputs.contrastive_logits, strict=True):
        pixels = F.normalize(module.contrastive_align_projection_image(level), dim=1).flatten(2).transpose(1, 2)
        torch.testing.assert_close(logits, pixels @ words.transpose(1, 2) / module.log_scale.exp())


def test_contrastive_align_with_two_anchors():
    """(B, A D, H, W): the channels of anchor a follow those of anchor a - 1; rows go pixel by pixel, then anchors."""
    images, words = torch.randn(2, 2 * 3, 2, 2), F.normalize(torch.randn(2, 4, 3), dim=-1)
    (logits,) = contrastive_align_logits([images], words, torch.zeros(1), num_anchors=2)
    assert logits.shape == (2, 8, 4)
    expected = F.normalize(images[1, 3:, 1, 0], dim=0) @ words[1, 2]
    torch.testing.assert_close(logits[1, 2 * 2 + 1, 2], expected)


def test_flattened_anchors():
    x = torch.arange(2 * 6 * 2 * 3.0).reshape(2, 6, 2, 3)
    flat = flatten_anchors(x, 2)
    assert flat.shape == (2, 12, 3)
    assert flat[1, 2 * (1 * 3 + 2) + 1].tolist() == x[1, 3:, 1, 2].tolist()


def test_start_of_the_convolutional_branches():
    torch.manual_seed(0)
    module = VLDyHead(nn.Sequential(), channels=64, num_classes=80, num_tokens=256, use_dot_product=False)
    for conv, bias in (
        (module.cls_logits, -math.log(99)), (module.token_logits, -math.log(99)),
        (module.bbox_pred, 0.0), (module.centerness, 0.0),
    ):  # fmt: skip
        assert conv.kernel_size == (1, 1) and 0.008 < conv.weight.std() < 0.012
        torch.testing.assert_close(conv.bias, torch.full_like(conv.bias, bias))
    assert [scale.scale.tolist() for scale in module.scales] == [[1.0]] * 5


def test_every_level_has_a_scale():
    conv, scales = nn.Conv2d(CHANNELS, 4, 1).double(), [Scale(float(i + 1)) for i in range(5)]
    levels = state().visual
    for i, (level, out) in enumerate(zip(levels, regress_boxes(conv, scales, levels), strict=True)):
        torch.testing.assert_close(out, conv(level) * (i + 1))
    with pytest.raises(ValueError, match="scales for 5 levels, got 6"):
        regress_boxes(conv, scales, [*levels, levels[0]])


def test_masked_word_head():
    """Linear, GELU, norm, then a projection to the vocabulary whose bias has two names."""
    module = scramble(BertLMPredictionHead(TEXT_DIM, 9), 0.5).double()
    x = state().hidden
    expected = module.decoder(module.transform.LayerNorm(F.gelu(module.transform.dense(x))))
    torch.testing.assert_close(module(x), expected)
    assert module.bias is module.decoder.bias
    assert set(module.state_dict()) == {
        "bias", "transform.dense.weight", "transform.dense.bias", "transform.LayerNorm.weight",
        "transform.LayerNorm.bias", "decoder.weight", "decoder.bias",
    }  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"num_anchors": 2}, id="two anchors"),
        pytest.param({"use_dot_product": True, "contrastive_dim": 4}, id="both"),
        pytest.param({"use_dot_product": False, "contrastive_dim": 4, "use_fused_text": True}, id="fused contrastive"),
    ],
)
def test_branches_that_exclude_each_other(options):
    with pytest.raises(ValueError):
        head(**options)
