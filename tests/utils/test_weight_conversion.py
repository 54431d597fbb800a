"""Which stored weights find their place in a model, and which differences are errors; on small stand-in models."""

import logging

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.utils.weight_conversion import (
    load_stored_weights,
    load_weights,
    resize_bias_table,
    unwrap_model,
)
from maskrcnn_benchmark.utils.weight_files import CheckpointError, save_weights


class Attention(nn.Module):
    def __init__(self, window, heads):
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(torch.randn((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", torch.arange(window**4).reshape(window**2, window**2))
        self.qkv = nn.Linear(4, 12)


class Body(nn.Module):
    """The names of a Swin Transformer with one block; a detector's body has output norms and no classifier."""

    def __init__(self, window=7, heads=2, detector=True, width=4):
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, 4)
        self.layers = nn.ModuleList([nn.Module()])
        self.layers[0].attn = Attention(window, heads)
        if detector:
            self.norm1 = nn.LayerNorm(4)
        else:
            self.norm = nn.LayerNorm(4)
            self.head = nn.Linear(4, 10)
            self.layers[0].register_buffer("attn_mask", torch.zeros(2, 2))


class Text(nn.Module):
    def __init__(self, pooler=False):
        super().__init__()
        self.embeddings = nn.Module()
        self.embeddings.word_embeddings = nn.Embedding(11, 4)
        self.embeddings.LayerNorm = nn.LayerNorm(4)
        self.encoder = nn.Linear(4, 4)
        if pooler:
            self.pooler = nn.Module()
            self.pooler.dense = nn.Linear(4, 4)


class Detector(nn.Module):
    """The top-level names of the detector."""

    def __init__(self, classes=80, extras=False, tower=2, **body):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.body = Body(**body)
        self.backbone.fpn = nn.Conv2d(4, 4, 1)
        self.language_backbone = nn.Module()
        self.language_backbone.body = nn.Module()
        self.language_backbone.body.model = Text(pooler=extras)
        self.rpn = nn.Module()
        self.rpn.anchor_generator = nn.Module()
        self.rpn.anchor_generator.register_buffer("cell_anchors", torch.zeros(1, 4))
        self.rpn.head = nn.Module()
        self.rpn.head.cls_logits = nn.Conv2d(4, classes, 1)
        self.rpn.head.dyhead_tower = nn.Sequential(*[nn.Linear(4, 4) for _ in range(tower)])
        if extras:
            self.rpn.head.mlm_head = nn.Linear(4, 11)
            self.rpn.tunable_linear = nn.Embedding(5, 4)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(model, state, names=None):
    own = model.state_dict()
    for name in names or state:
        torch.testing.assert_close(own[name], state[name].to(own[name].dtype), rtol=0, atol=0, msg=name)


def trained(**options):
    """State dict of another instance, its buffers made wrong to prove that they are not taken from the file."""
    state = Detector(**options).state_dict()
    return {name: value + 1 if "index" in name or "anchors" in name else value for name, value in state.items()}


@pytest.mark.parametrize("wrap", ["model", "bare", "module", "module twice", "state_dict"])
def test_forms_of_a_detector_checkpoint(tmp_path, wrap):
    state, model = trained(), Detector()
    before = snapshot(model)
    prefix = {"module": "module.", "module twice": "module.module."}.get(wrap, "")
    stored = {prefix + name: value for name, value in state.items()}
    torch.save(
        stored if wrap == "bare" else {"state_dict" if wrap == "state_dict" else "model": stored}, tmp_path / "w"
    )
    report = load_weights(model, tmp_path / "w")
    computed = {name for name in state if "index" in name or "anchors" in name}
    assert set(report.loaded) == state.keys() - computed
    assert set(report.ignored) == computed
    assert not (report.missing or report.unexpected or report.mismatched or report.problems)
    assert_same(model, state, report.loaded)
    assert_same(model, before, computed)


def test_extra_parts_of_the_file_are_ignored():
    state, model = trained(extras=True), Detector()
    del state["rpn.tunable_linear.weight"]
    state["language_backbone.body.model.embeddings.position_ids"] = torch.arange(4)
    state["rpn.head.token_logits.weight"] = torch.zeros(4)
    report = load_stored_weights(model, state)
    assert not report.problems and not report.missing and not report.unexpected
    assert {name.split(".")[-2] for name in report.ignored} >= {"mlm_head", "token_logits", "embeddings", "dense"}


def test_optional_parts_may_be_missing():
    report = load_stored_weights(Detector(extras=True), trained())
    assert not report.problems
    assert "rpn.head.mlm_head.weight" in report.missing
    assert "rpn.tunable_linear.weight" in report.missing


def test_tuned_prompts_need_a_model_that_uses_them():
    with pytest.raises(CheckpointError, match=r"1 unexpected, e\.g\. rpn\.tunable_linear\.weight"):
        load_stored_weights(Detector(), trained(extras=True))


def test_another_number_of_classes_keeps_the_class_head():
    model = Detector(classes=7)
    before = snapshot(model)
    report = load_stored_weights(model, trained(classes=80))
    assert [mismatch.name for mismatch in report.mismatched] == [
        "rpn.head.cls_logits.weight",
        "rpn.head.cls_logits.bias",
    ]
    assert report.mismatched[0].file_shape == (80, 4, 1, 1) and report.mismatched[0].model_shape == (7, 4, 1, 1)
    assert not report.problems
    assert_same(model, before, ["rpn.head.cls_logits.weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tower": 4}, r"22 entries of Detector.*4 unexpected, e\.g\. rpn\.head\.dyhead_tower\.2\.weight"),
        ({"tower": 1}, r"2 missing, e\.g\. rpn\.head\.dyhead_tower\.1\.weight"),
        ({"width": 5}, r"2 of another shape, e\.g\. .*proj\.weight \(file \[5, 3, 4, 4\], model \[4, 3, 4, 4\]\)"),
    ],
)
def test_another_architecture_is_an_error_and_changes_nothing(options, message):
    model = Detector()
    before = snapshot(model)
    with pytest.raises(ValueError, match=message):
        load_stored_weights(model, trained(**options))
    assert_same(model, before)


@pytest.mark.parametrize("prefix", ["rpn.", "rpn.head.", "backbone."])
@pytest.mark.parametrize("is_part", [False, True])
def test_a_beginning_that_all_names_lack_is_put_back(prefix, is_part):
    state, model = trained(), Detector()
    before = snapshot(model)
    part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    stored = part if is_part else part | {name: state[name] for name in state if not name.startswith(prefix)}
    report = load_stored_weights(model, stored)
    assert not report.missing and not report.unexpected
    computed = {name for name in state if "index" in name or "anchors" in name}
    inside = {name for name in state if name.startswith(prefix)} - computed
    assert set(report.loaded) == (inside if is_part else state.keys() - computed)
    assert_same(model, state, report.loaded)
    assert_same(model, before, before.keys() - set(report.loaded))


def test_names_that_fit_in_several_places_are_an_error():
    model = nn.ModuleDict({"left": nn.Linear(2, 2), "right": nn.Linear(2, 2)})
    with pytest.raises(CheckpointError, match="2 unexpected"):
        load_stored_weights(model, nn.Linear(2, 2).state_dict())


def test_not_strict_loads_what_fits_and_warns(caplog):
    model, state = Detector(), trained(width=5, tower=1)
    report = load_stored_weights(model, state, strict=False)
    assert report.missing == ["rpn.head.dyhead_tower.1.weight", "rpn.head.dyhead_tower.1.bias"]
    assert len(report.mismatched) == 2
    assert "2 missing" in caplog.text and "2 of another shape" in caplog.text
    assert_same(model, state, report.loaded)


def test_a_foreign_file_is_an_error_even_if_not_strict():
    with pytest.raises(CheckpointError, match="fills 0 of the 22 entries of Detector") as raised:
        load_stored_weights(Detector(), nn.Linear(3, 3).state_dict(), strict=False)
    assert "strict=False" not in str(raised.value)


def test_model_ema_on_request(tmp_path):
    state, average, model = trained(), trained(), Detector()
    torch.save({"model": state, "model_ema": {f"module.{k}": v for k, v in average.items()}}, tmp_path / "w.pth")
    report = load_weights(model, tmp_path / "w.pth", key="model_ema")
    assert_same(model, average, report.loaded)
    torch.save({"model": state}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="no state dict under 'model_ema'"):
        load_weights(model, tmp_path / "w.pth", key="model_ema")


@pytest.mark.parametrize("target", ["detector", "body"])
def test_imagenet_swin_fills_the_body(tmp_path, target):
    swin = Body(detector=False).state_dict()
    model = Detector() if target == "detector" else Body()
    scope = "backbone.body." if target == "detector" else ""
    before = snapshot(model)
    torch.save({"model": swin}, tmp_path / "swin.pth")
    report = load_weights(model, tmp_path / "swin.pth")
    assert not report.problems and not report.unexpected and not report.resized
    assert report.missing == [f"{scope}norm1.weight", f"{scope}norm1.bias"]
    assert {name.removeprefix(scope) for name in report.ignored} == {
        *("head.weight", "head.bias", "norm.weight", "norm.bias"),
        *("layers.0.attn_mask", "layers.0.attn.relative_position_index"),
    }
    assert_same(model, {scope + name: value for name, value in swin.items()}, report.loaded)
    assert_same(model, before, before.keys() - set(report.loaded))


def test_imagenet_swin_of_another_window_is_resized(caplog):
    swin, model = Body(window=7, detector=False).state_dict(), Detector(window=12)
    report = load_stored_weights(model, swin, source="swin.pth")
    name = "backbone.body.layers.0.attn.relative_position_bias_table"
    assert report.resized == [name]
    expected = resize_bias_table(swin[name.removeprefix("backbone.body.")], 23 * 23)
    assert_same(model, {name: expected})
    assert "swin.pth: resized 1 position tables" in caplog.text


def test_another_swin_width_is_an_error():
    with pytest.raises(CheckpointError, match=r"backbone\.body\.patch_embed\.proj\.weight"):
        load_stored_weights(Detector(), Body(detector=False, width=6).state_dict())
    with pytest.raises(CheckpointError, match="relative_position_bias_table"):
        load_stored_weights(Detector(), Body(detector=False, heads=3).state_dict())


def test_swin_without_a_place_in_the_model():
    with pytest.raises(CheckpointError, match="ImageNet Swin Transformer, and the model has 0 places"):
        load_stored_weights(Text(), Body(detector=False).state_dict(), source="swin.pth")


def test_resize_of_a_linear_table_and_its_refusals():
    rows, columns = torch.meshgrid(torch.arange(13.0), torch.arange(13.0), indexing="ij")
    table = torch.stack([rows.flatten(), columns.flatten()], dim=1)  # (169, 2)
    resized = resize_bias_table(table, 23 * 23).reshape(23, 23, 2)
    assert resized[11, 11].tolist() == pytest.approx([6, 6], abs=1e-5)  # the centre, no offset, stays
    torch.testing.assert_close(resized.flip(0, 1) - 6, 6 - resized, rtol=0, atol=1e-5)  # opposite offsets
    expected = ((torch.arange(23.0) + 0.5) * 13 / 23 - 0.5).clamp(0, 12)  # pixel centres, as in picture resizing
    torch.testing.assert_close(resized[:, 11, 0], expected, rtol=0, atol=0.1)  # cubic, so only nearly straight
    torch.testing.assert_close(resized[11, :, 1], expected, rtol=0, atol=0.1)
    assert resize_bias_table(torch.rand(170, 2), 529) is None
    assert resize_bias_table(torch.rand(169, 2), 528) is None
    assert resize_bias_table(torch.rand(144, 2), 529) is None


@pytest.mark.parametrize("prefix", ["bert.", "roberta.", ""])
def test_text_encoder_files(prefix):
    text, model = Text(pooler=True).state_dict(), Detector()
    stored = {prefix + name: value for name, value in text.items()}
    stored[f"{prefix}embeddings.LayerNorm.gamma"] = stored.pop(f"{prefix}embeddings.LayerNorm.weight")
    stored[f"{prefix}embeddings.LayerNorm.beta"] = stored.pop(f"{prefix}embeddings.LayerNorm.bias")
    stored[f"{prefix}embeddings.position_ids"] = torch.arange(4)
    stored["cls.predictions.bias"] = torch.zeros(11)
    report = load_stored_weights(model, stored)
    scope = "language_backbone.body.model."
    assert not report.problems and not report.missing
    assert set(report.loaded) == {name for name in model.state_dict() if name.startswith(scope)}
    assert_same(model, {scope + name: value for name, value in text.items()}, report.loaded)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_half_precision_storage_is_cast_to_the_parameter(tmp_path, suffix):
    state, model = Detector(), Detector()
    report = load_weights(model, save_weights(state, tmp_path / f"w{suffix}", dtype=torch.float16))
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.state_dict().items()}
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert_same(model, half, report.loaded)


def test_wrapped_models_are_filled():
    state = trained()
    model = nn.DataParallel(Detector())
    report = load_stored_weights(model, state)
    assert unwrap_model(model) is model.module
    assert_same(model.module, state, report.loaded)
    compiled = torch.compile(Detector())
    assert unwrap_model(compiled) is compiled._orig_mod
    report = load_stored_weights(compiled, state)
    assert_same(compiled._orig_mod, state, report.loaded)


def test_success_is_logged_with_its_counts(caplog):
    caplog.set_level(logging.INFO)
    load_stored_weights(Detector(), trained(), source="w.pth")
    assert "w.pth: 20 loaded" in caplog.text
