"""The accelerated text encoder against transformers' BERT and RoBERTa."""

import pytest
import torch
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel
from triton_interpreter import interpreted_kernels

from maskrcnn_benchmark.modeling.accelerated.precision import find_precision
from maskrcnn_benchmark.modeling.accelerated.text import AcceleratedTextEncoder, supports_text
from maskrcnn_benchmark.modeling.language_backbone.huggingface import BertEncoder

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
}


def build_encoder(kind="bert", num_layers=1, trim=False, **settings):
    torch.manual_seed(0)
    if kind == "bert":
        model = BertModel(BertConfig(**SIZES, **settings), add_pooling_layer=False)
    else:
        model = RobertaModel(RobertaConfig(**SIZES, pad_token_id=1, type_vocab_size=1), add_pooling_layer=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return BertEncoder(model, num_layers=num_layers, trim=trim).eval().requires_grad_(False)


def build_tokens(kind="bert"):
    ids = torch.randint(5, 50, (2, 12))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    padding = 0 if kind == "bert" else 1
    return {"input_ids": ids.masked_fill(mask == 0, padding), "attention_mask": mask}


@pytest.mark.parametrize("is_interpreted", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_encoder_equals_plain_encoder(kind, num_layers, is_interpreted):
    encoder, tokens = build_encoder(kind, num_layers), build_tokens(kind)
    assert supports_text(encoder) is None
    expected = encoder(tokens)
    accelerated = AcceleratedTextEncoder(encoder, find_precision("fp32"))
    if is_interpreted:
        with interpreted_kernels():
            found = accelerated(tokens)
    else:
        found = accelerated(tokens)
    is_word = tokens["attention_mask"].bool()
    torch.testing.assert_close(found.hidden[is_word], expected.hidden[is_word], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.embedded, expected.embedded, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.aggregate, expected.aggregate, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.masks, expected.masks)


@pytest.mark.parametrize("kind, longest", [("bert", 24), ("roberta", 22)])
def test_too_long_caption_is_refused(kind, longest):
    encoder = AcceleratedTextEncoder(build_encoder(kind), find_precision("fp32"))
    for words in (longest, longest + 1):
        ids = torch.full((1, words), 5)
        tokens = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if words == longest:
            encoder(tokens)
        else:
            with pytest.raises(ValueError, match=f"{words} tokens are too long for 24 positions"):
                encoder(tokens)


def test_unsupported_encoders_are_named():
    assert "longest" in supports_text(build_encoder(trim=True))
    assert "'relu'" in supports_text(build_encoder(hidden_act="relu"))
    assert "Identity" in supports_text(torch.nn.Identity())


@pytest.mark.gpu
@pytest.mark.parametrize("name, tolerance", [("bf16", 5e-2), ("fp16", 1e-2), ("fp32", 1e-4)])
def test_encoder_on_gpu(name, tolerance):
    encoder, tokens = build_encoder().cuda(), {key: x.cuda() for key, x in build_tokens().items()}
    expected = encoder(tokens).embedded
    found = AcceleratedTextEncoder(encoder, find_precision(name))(tokens).embedded
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
