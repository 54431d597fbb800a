"""CLIP's text transformer: bidirectional, without pooling, of a fixed length."""

import pytest
import torch
import torch.nn.functional as F
from tiny_detector import make_text_folder, scramble, tiny_config

from maskrcnn_benchmark.modeling.language_backbone import CLIPTransformer, build_language_backbone

SIZES = {"vocab_size": 30, "context_length": 6, "width": 8, "layers": 3, "heads": 2}
TOKENS = {
    "input_ids": torch.tensor([[1, 5, 7, 9, 0, 0], [1, 2, 3, 4, 5, 6]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]),
}


def encoder(**options) -> CLIPTransformer:
    torch.manual_seed(0)
    return scramble(CLIPTransformer(**SIZES | options), 0.3).double().eval()


@torch.no_grad()
def test_equals_the_formula():
    module = encoder()
    text = module(TOKENS)
    for i, words in enumerate((4, 6)):
        x = module.token_embedding(TOKENS["input_ids"][i, :words]) + module.positional_embedding[:words]
        for block in module.resblocks:
            q, k, v = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, -1)
            out = [(q[:, s] @ k[:, s].T / 2).softmax(-1) @ v[:, s] for s in (slice(0, 4), slice(4, 8))]
            x = x + block.attn.out_proj(torch.cat(out, -1))
            u = block.mlp.c_fc(block.ln_2(x))
            x = x + block.mlp.c_proj(u * torch.sigmoid(1.702 * u))
        torch.testing.assert_close(text.hidden[i, :words], module.ln_final(x))
    assert text.embedded is text.hidden and text.aggregate is text.hidden
    assert text.masks is TOKENS["attention_mask"]


@torch.no_grad()
def test_first_word_sees_the_last():
    module = encoder()
    changed = {**TOKENS, "input_ids": TOKENS["input_ids"].clone()}
    changed["input_ids"][1, 5] = 20
    assert not torch.allclose(module(changed).hidden[1, 0], module(TOKENS).hidden[1, 0])


def test_another_length_is_refused():
    with pytest.raises(ValueError, match="takes 6 tokens, got 4"):
        encoder()({name: value[:, :4] for name, value in TOKENS.items()})


def test_start():
    torch.manual_seed(0)
    module = CLIPTransformer(vocab_size=200, context_length=40, width=48, layers=3, heads=4, drop_path=0.2)
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "in_proj" not in name and "ln_" not in name:  # the joint projection keeps PyTorch's own start
            assert 0.015 < parameter.std() < 0.025, name
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in module.resblocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


@pytest.mark.parametrize("length", [6, 3])
def test_pretrained_text_weights(tmp_path, length):
    """Entries below `text.` are taken, the position table is stretched, everything else is left alone."""
    source = encoder(context_length=length).float()
    stored = {f"text.{name}": value for name, value in source.state_dict().items()}
    stored |= {"visual.conv1.weight": torch.zeros(1), "text.unknown": torch.zeros(1)}
    torch.save(stored, tmp_path / "clip.pt")
    module = encoder().float()
    module.load_pretrained(str(tmp_path / "clip.pt"))
    for name, value in module.state_dict().items():
        expected = source.state_dict()[name]
        if name == "positional_embedding" and length == 3:
            assert value.shape == (6, 8)
            # Half-pixel centres: position 1 of 6 lies at 0.25 of 3, position 2 at 0.75.
            torch.testing.assert_close(value[0], expected[0])
            torch.testing.assert_close(value[1], 0.75 * expected[0] + 0.25 * expected[1])
            torch.testing.assert_close(value[2], 0.25 * expected[0] + 0.75 * expected[1])
        else:
            assert torch.equal(value, expected), name


def test_sizes_and_weights_come_from_the_configuration(tmp_path):
    source = CLIPTransformer(vocab_size=1318, context_length=48, width=16, layers=2, heads=4)
    torch.save({f"text.{name}": value for name, value in source.state_dict().items()}, tmp_path / "clip.pt")
    cfg = tiny_config(
        make_text_folder(tmp_path / "text"),
        *("MODEL.LANGUAGE_BACKBONE.MODEL_TYPE", "clip", "MODEL.LANGUAGE_BACKBONE.WEIGHT", str(tmp_path / "clip.pt")),
        *("MODEL.CLIP.VOCAB_SIZE", 1318, "MODEL.CLIP.CONTEXT_LENGTH", 48, "MODEL.CLIP.WIDTH", 16),
        *("MODEL.CLIP.LAYERS", 2, "MODEL.CLIP.HEADS", 4),
    )
    body = build_language_backbone(cfg).body
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in body.state_dict().items())
