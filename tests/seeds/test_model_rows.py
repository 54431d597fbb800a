"""The network as the notes describe it: parts, shapes, log lines, module tree (rows 11, 19-24, 68, 76, 82, 83, 91)."""

import logging
from contextlib import nullcontext
from typing import get_type_hints

import golden_tools
import pytest
import torch
from transformers import BertConfig, BertModel

from maskrcnn_benchmark.modeling.backbone.swin_vl import SwinTextTransformer
from maskrcnn_benchmark.modeling.fusion import TowerState
from maskrcnn_benchmark.modeling.fusion.bi_attention import BiAttentionBlockForCheckpoint
from maskrcnn_benchmark.modeling.fusion.t2i_attention import AttentionT2I
from maskrcnn_benchmark.modeling.language_backbone import BertEncoder, TextFeatures

GOLDG = "glip_Swin_T_O365_GoldG"


def shapes(tensors) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in tensors]


def text_features(batch: int, tokens: int = 256, dim: int = 768, device: str = "meta") -> TextFeatures:
    features = torch.zeros(batch, tokens, dim, device=device)
    return TextFeatures(features[:, 0], features, torch.ones(batch, tokens, dtype=torch.long, device=device), features)


@pytest.fixture
def shapes_only(monkeypatch):
    """Lets the operators run on the meta device, for which PyTorch has no autocast."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: nullcontext())


def test_parts_of_the_detector(glip_t):
    """Row 20: backbone, text encoder and rpn; a detector without a second stage has no heads."""
    assert [name for name, _ in glip_t.named_children()] == ["backbone", "language_backbone", "rpn"]
    assert glip_t.roi_heads is None
    assert [name for name, _ in glip_t.backbone.named_children()] == ["body", "fpn"]


def test_tower_of_glip_a_sees_no_text(shape_model, shapes_only):
    """Row 11: GLIP-T(A) has a tower of six DyConv and no fusion."""
    model = shape_model("glip_A_Swin_T_O365")
    assert [type(module).__name__ for module in model.rpn.head.dyhead_tower] == ["DyConv"] * 6
    state = TowerState(
        [torch.empty(1, 256, s, s, device="meta") for s in (16, 8, 4, 2, 1)], *[text_features(1).hidden] * 2
    )
    assert model.rpn.head.dyhead_tower(state).hidden is state.hidden


@pytest.mark.parametrize(
    ("name", "overrides", "lines"),
    [
        (GOLDG, (), ["EARLY FUSION ON, USING MHA-B"] * 6),
        (GOLDG, ("MODEL.DYHEAD.FUSE_CONFIG.TYPE", "NONE"), ["NO FUSION INVOLVED."] * 6),
        ("glip_A_Swin_T_O365", (), []),
    ],
)
def test_log_lines(shape_model, caplog, name, overrides, lines):
    """Row 19: what is recomputed in the backward pass, and how each of the six rounds fuses."""
    with caplog.at_level(logging.INFO, logger="maskrcnn_benchmark"):
        shape_model(name, *overrides)
    assert "VISION BACKBONE USE GRADIENT CHECKPOINTING:  False" in caplog.messages
    assert "LANGUAGE BACKBONE USE GRADIENT CHECKPOINTING:  False" in caplog.messages
    assert [message for message in caplog.messages if "FUSION" in message] == lines


def test_swin_stages(glip_t):
    """Row 22: strides 4, 8, 16, 32 of three 800x1216 images."""
    stages = glip_t.backbone.body(torch.empty(3, 3, 800, 1216, device="meta"))
    assert shapes(stages) == [(3, 96, 200, 304), (3, 192, 100, 152), (3, 384, 50, 76), (3, 768, 25, 38)]


def test_levels_of_a_training_batch(glip_t, shapes_only):
    """Row 83: five levels, halved and rounded up; fusion and text layers keep every shape."""
    levels = glip_t.backbone(torch.empty(4, 3, 736, 1088, device="meta"))
    expected = [(4, 256, *size) for size in ((92, 136), (46, 68), (23, 34), (12, 17), (6, 9))]
    assert shapes(levels) == expected
    text = text_features(4)
    state = TowerState(list(levels), text.hidden, text.masks, text.aggregate)
    for module in glip_t.rpn.head.dyhead_tower:
        state = module(state)
        assert shapes(state.visual) == expected and state.hidden.shape == (4, 256, 768)


def test_outputs_of_the_head(glip_t, shapes_only):
    """Rows 24, 34 and 68: ten outputs in a fixed order, and the shapes of those that GLIP-T computes."""
    levels = glip_t.backbone(torch.empty(3, 3, 800, 1216, device="meta"))
    text = text_features(3)
    outputs = glip_t.rpn.head(levels, text, text.embedded)
    assert list(outputs._fields) == [
        "cls_logits", "bbox_reg", "centerness", "token_logits", "proj_tokens", "contrastive_logits",
        "dot_product_logits", "mlm_logits", "shallow_img_emb_feats", "fused_visual_features",
    ]  # fmt: skip
    assert [field for field in outputs._fields if getattr(outputs, field) is None] == [
        "token_logits", "proj_tokens", "contrastive_logits", "mlm_logits", "shallow_img_emb_feats",
        "fused_visual_features",
    ]  # fmt: skip
    assert outputs.cls_logits[0].shape == (3, 80, 100, 152)
    assert outputs.bbox_reg[0].shape == (3, 4, 100, 152)
    assert outputs.centerness[0].shape == (3, 1, 100, 152)
    assert outputs.dot_product_logits[0].shape == (3, 100 * 152, 256)
    words, biases = glip_t.rpn.head.project_words(text_features(1).hidden)
    assert words.shape == (1, 256, 256) and biases.shape == (1, 256)


def test_fusion_directions():
    """Row 23: MHA-S changes the image by the text, MHA-B both by each other."""
    torch.manual_seed(0)
    levels = [torch.randn(1, 16, size, size) for size in (8, 4, 2, 2, 1)]
    text = torch.randn(1, 6, 12)
    state = TowerState(levels, text, torch.ones(1, 6, dtype=torch.long))

    def reads(block, changed: TowerState, name: str) -> bool:
        before, after = getattr(block(state), name), getattr(block(changed), name)
        pairs = [(before, after)] if name == "hidden" else zip(before, after, strict=True)
        return any(not torch.equal(one, other) for one, other in pairs)

    other_image = state._replace(visual=[level + 1 + torch.rand_like(level) for level in levels])
    other_text = state._replace(hidden=text + torch.rand_like(text))
    options = {"init_value": 0.5, "clamp_min": True, "clamp_max": True}
    one_way = AttentionT2I(16, 12, 32, 4, **options).eval()
    two_way = BiAttentionBlockForCheckpoint(16, 12, 32, 4, **options).eval()
    assert reads(one_way, other_text, "visual") and reads(two_way, other_text, "visual")
    assert one_way(other_image).hidden is text
    assert reads(two_way, other_image, "hidden")


def test_text_features():
    """Rows 21 and 76: hidden is the last layer, embedded the same without padding, aggregate its mean."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    bert = BertModel(config, add_pooling_layer=False).eval()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    ids = torch.randint(50, mask.shape)
    text = BertEncoder(bert)({"input_ids": ids, "attention_mask": mask})
    assert {"aggregate", "embedded", "masks", "hidden"} <= set(get_type_hints(TextFeatures))
    assert torch.equal(text["hidden"], bert(input_ids=ids, attention_mask=mask).last_hidden_state)
    assert text.hidden[1, 3:].abs().min() > 0
    assert torch.equal(text["embedded"], text.hidden * mask[..., None])
    torch.testing.assert_close(text["aggregate"][1], text.hidden[1, :3].mean(0))
    assert torch.equal(text["masks"], mask)


def test_text_fused_body_updates_only_hidden(shape_model):
    """Row 21: with a "vl" body the text leaves the backbone with a new `hidden` and is otherwise the same."""
    backbone = shape_model(GOLDG, "MODEL.SWINT.VERSION", "vl").backbone
    assert isinstance(backbone.body, SwinTextTransformer)
    text = text_features(1)
    encoded = backbone.encode(torch.empty(1, 3, 64, 96, device="meta"), text)
    assert encoded.text.hidden is not text.hidden and encoded.text.hidden.shape == text.hidden.shape
    assert all(encoded.text[name] is text[name] for name in ("aggregate", "embedded", "masks"))


def test_module_tree(glip_t):
    """Row 91: the tree that the notes print, module by module, with two classes under other names."""
    lines = golden_tools.golden_path("module_tree.txt").read_text().splitlines()
    renamed = {"GELUActivation": "GELU", "BufferList": "CellAnchors"}
    expected = {name: renamed.get(kind, kind) for name, kind in (line.split(" ") for line in lines)}
    modules = {name: type(module).__name__ for name, module in glip_t.named_modules()}
    assert {name: modules.get(name) for name in expected} == expected
    printed = str(glip_t.rpn)
    assert "Linear(in_features=256, out_features=2048, bias=True)" in printed
    assert (
        "ModulatedDeformConv(in_channels=256, out_channels=256, kernel_size=(3, 3), stride=1, dilation=1, padding=1, "
        "groups=1, deformable_groups=1, bias=True)" in printed
    )


@pytest.mark.parity
@pytest.mark.parametrize(
    ("frozen", "probe", "prompt", "tensors", "numbers"),
    [
        ("", False, False, 726, 231759662),  # full
        ("body fpn text", True, False, 9, 198919),  # linear_prob
        ("body fpn head", False, False, 197, 108891648),  # language_prompt_v1
        ("body fpn head text", False, True, 1, 768000),  # language_prompt_v2
        ("body fpn head", True, False, 197, 108891648),  # language_prompt_v3
        ("body fpn head text", True, True, 1, 768000),  # language_prompt_v4
    ],
)
def test_what_a_tuning_mode_trains(shape_model, frozen, probe, prompt, tensors, numbers):
    """Row 82: the settings of each mode leave as many tensors and numbers trainable as recorded."""
    keys = {"body": "BACKBONE", "fpn": "FPN", "head": "RPN", "text": "LANGUAGE_BACKBONE"}
    settings = [item for part, key in keys.items() for item in (f"MODEL.{key}.FREEZE", part in frozen.split())]
    settings += ["MODEL.LINEAR_PROB", probe, "MODEL.DYHEAD.FUSE_CONFIG.ADD_LINEAR_LAYER", prompt]
    model = shape_model(GOLDG, *settings).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(trained) == tensors
    assert sum(parameter.numel() for parameter in trained) == numbers


def test_text_encoder_from_a_folder(shape_model, bert_vocabulary, caplog):
    """Rows 17 and 64: a folder with sizes and vocabulary is enough, for the network as for the prompts."""
    with caplog.at_level(logging.WARNING, logger="maskrcnn_benchmark"):
        model = shape_model("glip_A_Swin_T_O365")
    assert [record.levelname for record in caplog.records] == ["WARNING"] and bert_vocabulary in caplog.text
    assert model.language_backbone.body.model.config.hidden_size == 768
    assert model.tokenizer("person")["input_ids"] == [101, 2711, 102]
