"""BERT and RoBERTa as text encoders: which layers they return, and how they are built without weights."""

import json
import logging

import pytest
import torch
from tiny_detector import TEXT_DIM, make_text_folder, scramble, tiny_config
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from maskrcnn_benchmark.modeling.language_backbone import BertEncoder, build_language_backbone, load_text_config

SIZES = {"vocab_size": 50, "hidden_size": 12, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16}
MASK = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]])


def encoder(model_type: str = "bert", **options) -> tuple[BertEncoder, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    if model_type == "bert":
        model, padding = BertModel(BertConfig(**SIZES), add_pooling_layer=False), 0
    else:
        config = RobertaConfig(**SIZES, pad_token_id=1, bos_token_id=0, eos_token_id=2, type_vocab_size=1)
        model, padding = RobertaModel(config, add_pooling_layer=False), 1
    ids = torch.randint(3, 50, MASK.shape).masked_fill(MASK == 0, padding)
    if model_type == "roberta":
        ids[:, 0] = 0  # its first token has the id of BERT's padding
    return BertEncoder(scramble(model), **options).eval(), {"input_ids": ids, "attention_mask": MASK}


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
@pytest.mark.parametrize("num_layers", [1, 3])
@torch.no_grad()
def test_mean_of_the_last_layers_is_divided_twice(model_type, num_layers):
    module, tokens = encoder(model_type, num_layers=num_layers)
    states = module.model(**tokens, output_hidden_states=True).hidden_states
    text = module(tokens)
    expected = torch.stack(states[-num_layers:]).mean(0) / num_layers * MASK[..., None]
    torch.testing.assert_close(text.embedded, expected)
    torch.testing.assert_close(text.aggregate, expected.sum(1) / MASK.sum(1, keepdim=True))
    torch.testing.assert_close(text.hidden, states[-1])
    assert text.masks is tokens["attention_mask"] and text.masks.dtype == torch.int64
    assert text.mlm_labels is None and len(text) == 2


@torch.no_grad()
def test_features_read_like_a_dict():
    """As code reads them that was written for the original, whose encoders return a dict."""
    module, tokens = encoder()
    text = module(tokens)
    names = ["aggregate", "embedded", "masks", "hidden", "mlm_labels"]
    assert list(text) == names and "hidden" in text and "pooled" not in text
    assert text["hidden"] is text.hidden
    assert all(value is text[name] for name, value in text.items()) and dict(text).keys() == set(names)
    with pytest.raises(KeyError, match="pooled"):
        text["pooled"]


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
@torch.no_grad()
def test_cutting_to_the_longest_caption(model_type):
    """Counted by the mask: an id of zero is padding in one of the models and the first token in the other."""
    whole, tokens = encoder(model_type)
    cut, _ = encoder(model_type, trim=True)
    text, expected = cut(tokens), whole(tokens)
    assert text.hidden.shape[1] == text.masks.shape[1] == 5
    torch.testing.assert_close(text.hidden[0], expected.hidden[0, :5])
    torch.testing.assert_close(text.embedded, expected.embedded[:, :5])
    torch.testing.assert_close(text.aggregate, expected.aggregate)


@pytest.mark.parametrize("dot_product", [True, False])
def test_only_models_without_dot_product_cut(tmp_path, dot_product):
    folder = make_text_folder(tmp_path)
    options = (
        "MODEL.DYHEAD.FUSE_CONFIG.USE_DOT_PRODUCT_TOKEN_LOSS",
        dot_product,
        "MODEL.LANGUAGE_BACKBONE.N_LAYERS",
        2,
    )
    body = build_language_backbone(tiny_config(folder, *options)).body
    assert body.trim is not dot_product and body.num_layers == 2


@pytest.mark.parametrize(("model_type", "kind"), [("bert", BertModel), ("roberta", RobertaModel)])
def test_folder_without_weights(tmp_path, caplog, model_type, kind):
    """The encoder starts untrained, with one warning that names the folder."""
    folder = make_text_folder(tmp_path / "text", model_type)
    with caplog.at_level(logging.WARNING, logger="maskrcnn_benchmark"):
        backbone = build_language_backbone(tiny_config(folder))
    assert [record.levelname for record in caplog.records] == ["WARNING"] and str(folder) in caplog.text
    assert type(backbone.body.model) is kind
    assert not any("pooler" in name for name in backbone.state_dict())


def test_folder_with_weights(tmp_path, caplog):
    folder = make_text_folder(tmp_path / "text")
    saved = scramble(BertModel(BertConfig.from_pretrained(folder)))
    saved.save_pretrained(folder)
    with caplog.at_level(logging.WARNING, logger="maskrcnn_benchmark"):
        backbone = build_language_backbone(tiny_config(folder))
    assert not [record for record in caplog.records if record.name.startswith("maskrcnn_benchmark")]
    state = saved.state_dict()
    for name, value in backbone.body.model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_width_that_the_detector_does_not_expect(tmp_path):
    folder = make_text_folder(tmp_path, hidden_size=20)
    with pytest.raises(ValueError, match=f"has 20 channels, but MODEL.LANGUAGE_BACKBONE.LANG_DIM={TEXT_DIM}"):
        build_language_backbone(tiny_config(folder))


def test_folders_that_describe_no_text_encoder(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no config.json"):
        load_text_config(str(tmp_path / "empty"))
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ValueError, match="has type 'gpt2'; supported are bert, roberta, clip"):
        load_text_config(str(tmp_path / "gpt"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bert-base-uncased", ("bert", 30522, 768, 12, 12, 3072, 512, 2, 1e-12, 0)),
        ("roberta-base", ("roberta", 50265, 768, 12, 12, 3072, 514, 1, 1e-5, 1)),
    ],
)
def test_known_names_need_no_network(name, expected):
    config = load_text_config(name)
    assert expected == (
        config.model_type, config.vocab_size, config.hidden_size, config.num_hidden_layers,
        config.num_attention_heads, config.intermediate_size, config.max_position_embeddings,
        config.type_vocab_size, config.layer_norm_eps, config.pad_token_id,
    )  # fmt: skip
    assert config.hidden_act == "gelu" and config.hidden_dropout_prob == 0.1


def test_recomputation_changes_no_gradient(tmp_path):
    folder = make_text_folder(tmp_path, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    tokens = {"input_ids": torch.randint(3, 50, MASK.shape), "attention_mask": MASK}
    gradients = []
    for use_checkpoint in (False, True):
        torch.manual_seed(0)
        body = build_language_backbone(tiny_config(folder, "MODEL.LANGUAGE_BACKBONE.USE_CHECKPOINT", use_checkpoint))
        assert body.body.model.is_gradient_checkpointing is use_checkpoint
        body.train()(tokens).hidden.square().sum().backward()
        gradients.append([parameter.grad for parameter in body.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
