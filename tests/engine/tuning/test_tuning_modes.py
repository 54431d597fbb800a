"""Each way of fine-tuning writes the recorded switches and trains the recorded parameters."""

import json

import pytest
import torch
from golden_tools import golden_path
from tiny_detector import make_text_folder, random_images, target, tiny_config

from maskrcnn_benchmark.engine.tuning.tuning_modes import TUNING_MODES, trainable_names, tuning_highlevel_override
from maskrcnn_benchmark.modeling.detector import build_detection_model

SHORT = {"ADD_LINEAR_LAYER": "DYHEAD.FUSE_CONFIG.ADD_LINEAR_LAYER"}
MODES = ("full", "linear_prob", *(f"language_prompt_v{number}" for number in (1, 2, 3, 4)))


def recorded_modes() -> dict:
    return json.loads(golden_path("finetune_modes.json").read_text())


def value_of(cfg, name: str):
    node = cfg.MODEL
    for part in name.split("."):
        node = node[part]
    return node


def goldg(mode: str | None, tmp_path, *options):
    text = make_text_folder(tmp_path / "text")
    return tiny_config(text, "SOLVER.TUNING_HIGHLEVEL_OVERRIDE", mode, *options)


@pytest.mark.parity
@pytest.mark.parametrize("mode", MODES)
def test_mode_trains_what_is_recorded(mode, shape_model_of):
    """At the full size: the same switches, names and number of parameters, and parts without dropout."""
    recorded = recorded_modes()[mode]
    cfg, model = shape_model_of(mode)
    assert {name: value_of(cfg, SHORT.get(name, name)) for name in recorded["cfg"]} == recorded["cfg"]
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert sorted(frozen) == sorted(recorded["after_construction_frozen"])
    for _ in range(2):  # a validation comes between
        assert sorted(trainable_names(model.train())) == sorted(recorded["after_trainer_freeze"]["names"])
        fixed = [name for name, module in model.named_modules() if not module.training]
        assert outermost(fixed) == outermost(recorded["modules_in_eval_mode_after_train()"])
        model.eval()
    numbers = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert numbers == recorded["after_trainer_freeze"]["numel"]


@pytest.mark.parity
@pytest.mark.parametrize(("mode", "numbers"), [("v3", 109090567), ("v4", 966919)])
def test_fixed_modes_train_the_probe_too(mode, numbers, shape_model_of):
    """The text encoder or the prompt, as v1 and v2 do, and the last layers of the head, as linear_prob does."""
    recorded = recorded_modes()
    parts = [f"language_prompt_{mode}", "linear_prob"]
    _, model = shape_model_of(f"language_prompt_{mode}_fixed")
    expected = {name for part in parts for name in recorded[part]["after_trainer_freeze"]["names"]}
    assert set(trainable_names(model.train())) == expected
    assert numbers == sum(recorded[part]["after_trainer_freeze"]["numel"] for part in parts)
    assert numbers == sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.fixture
def shape_model_of(bert_vocabulary):
    """`shape_model_of(mode)`: (configuration, GLIP-T on the meta device as it is built)."""
    from maskrcnn_benchmark.config import default_config

    def build(mode: str):
        cfg = default_config()
        cfg.merge_from_file("configs/pretrain/glip_Swin_T_O365_GoldG.yaml")
        language = "MODEL.LANGUAGE_BACKBONE"
        cfg.merge_from_list([f"{language}.MODEL_TYPE", bert_vocabulary, f"{language}.TOKENIZER_TYPE", bert_vocabulary])
        cfg.merge_from_list(["SOLVER.TUNING_HIGHLEVEL_OVERRIDE", mode])
        cfg = tuning_highlevel_override(cfg)
        with torch.device("meta"):
            return cfg, build_detection_model(cfg)

    return build


def outermost(modules: list[str]) -> set[str]:
    """Those that are in no other."""
    return {name for name in modules if not any(name.startswith(f"{other}.") for other in modules)}


@pytest.mark.parametrize("mode", TUNING_MODES)
def test_every_trained_parameter_gets_a_gradient(mode, tmp_path):
    """Also with activation checkpointing, which must not cut the graph behind frozen parts."""
    cfg = tuning_highlevel_override(goldg(mode, tmp_path, "MODEL.DYHEAD.USE_CHECKPOINT", True))
    torch.manual_seed(0)
    model = build_detection_model(cfg).train()
    picture_target = target([[4.0, 4.0, 40.0, 40.0]], (64, 64))
    rows = torch.zeros(1, 48)
    rows[0, 1] = 1
    losses = model(random_images((64, 64)), [picture_target], ["cup . dog"], rows, greenlight_map=torch.zeros(1, 48))
    sum(losses.values()).backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient <= set(trainable_names(model))
    unused = set(trainable_names(model)) - with_gradient
    assert all("pooler" in name or "scales" in name for name in unused), unused


def test_no_mode_changes_nothing(tmp_path):
    cfg = goldg(None, tmp_path)
    before = cfg.dump()
    assert tuning_highlevel_override(cfg).dump() == before


def test_unknown_mode_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'language_prompt_v5': known are full, linear_prob"):
        tuning_highlevel_override(goldg("language_prompt_v5", tmp_path))
