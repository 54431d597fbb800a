"""Keys, shapes, types and order of the parameters of the published models, and what is trained of them."""

import json

import pytest
import torch
from golden_tools import golden_path, load_golden
from parity.model_golden import golden_json, model_config

from maskrcnn_benchmark.modeling.backbone.swin import relative_position_index
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.modeling.rpn.anchor_generator import make_anchor_generator_complex

pytestmark = pytest.mark.parity

CONFIGS = ("glip_A_Swin_T_O365", "glip_Swin_T_O365", "glip_Swin_T_O365_GoldG", "glip_Swin_L")


def build_without_storage(cfg):
    """The model on the meta device: names and shapes, no numbers."""
    with torch.device("meta"):
        return build_detection_model(cfg)


@pytest.mark.parametrize("name", CONFIGS)
def test_state_dict(name):
    recorded = json.loads(golden_path(f"state_dict/{name}.json").read_text())
    model = build_without_storage(model_config(name))
    ours = {
        key: (list(value.shape), str(value.dtype).removeprefix("torch.")) for key, value in model.state_dict().items()
    }
    theirs = {key: (shape, dtype) for key, shape, dtype, *_ in recorded["entries"]}
    assert ours == theirs
    parameters = dict(model.named_parameters())
    assert list(parameters) == recorded["named_parameters_order"]
    trainable = {key for key, _, _, kind, requires_grad in recorded["entries"] if kind == "param" and requires_grad}
    assert {key for key, value in parameters.items() if value.requires_grad} == trainable
    assert sum(value.numel() for value in parameters.values()) == recorded["num_parameters_total"]
    model.train()
    frozen = [key for key, value in parameters.items() if not value.requires_grad]
    assert sorted(frozen) == sorted(recorded["parameters_not_trainable_after_model.train()"])


@pytest.mark.parametrize("name", CONFIGS)
def test_buffers(name):
    recorded = load_golden(f"state_dict/{name}__buffers.npz")
    cfg = model_config(name)
    index = "backbone.body.layers.0.blocks.0.attn.relative_position_index"
    state = {f"rpn.anchor_generator.{k}": v for k, v in make_anchor_generator_complex(cfg).state_dict().items()}
    state[index] = relative_position_index(cfg.MODEL.SWINT.WINDOW_SIZE)
    assert set(recorded.files) == set(state)
    for key in recorded.files:
        torch.testing.assert_close(state[key], torch.from_numpy(recorded[key]), rtol=0, atol=0)


FREEZING_KEYS = {
    "DYHEAD.USE_CHECKPOINT": "DYHEAD.USE_CHECKPOINT",
    "ADD_LINEAR_LAYER": "DYHEAD.FUSE_CONFIG.ADD_LINEAR_LAYER",
}
TUNING_MODES = (
    "full",
    "linear_prob",
    "language_prompt_v1",
    "language_prompt_v2",
    "language_prompt_v3",
    "language_prompt_v4",
)


@pytest.mark.parametrize("mode", TUNING_MODES)
def test_freezing(mode):
    recorded = golden_json("finetune_modes.json")[mode]
    options = [x for key, value in recorded["cfg"].items() for x in (f"MODEL.{FREEZING_KEYS.get(key, key)}", value)]
    model = build_without_storage(model_config("glip_Swin_T_O365_GoldG", *options))

    def trainable() -> list[str]:
        return [key for key, value in model.named_parameters() if value.requires_grad]

    assert len(trainable()) == recorded["after_construction"]["count"]
    assert model.train() is model
    assert sorted(trainable()) == sorted(recorded["after_trainer_freeze"]["names"])
    numbers = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert numbers == recorded["after_trainer_freeze"]["numel"]
    in_eval = {key for key, module in model.named_modules() if not module.training}
    assert set(recorded["modules_in_eval_mode_after_train()"]) <= in_eval
    assert model.training and model.rpn.training
    assert model.eval() is model
