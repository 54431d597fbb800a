"""The cost of a detector: its table, and that operations are counted."""

import re

import pytest
import torch
import torch.nn.functional as F
from tiny_detector import REPOSITORY, make_text_folder, tiny_config
from toy_run import load_tool

from maskrcnn_benchmark.engine.training import profiling, training_run
from maskrcnn_benchmark.engine.training.profiling import count_operations, profile_model
from maskrcnn_benchmark.engine.tuning.tuning_modes import tuning_highlevel_override
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.ops.deform_conv import deform_conv2d
from maskrcnn_benchmark.utils.stats import count_macs

SMALL = ("INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "90")


@pytest.fixture(autouse=True)
def run_once(monkeypatch):
    monkeypatch.setattr(profiling, "RUNS", {"cpu": (0, 1)})


def test_profile_of_a_detector(tmp_path):
    folder = make_text_folder(tmp_path / "text")
    profile = profile_model(tiny_config(folder, *SMALL, "MODEL.LANGUAGE_BACKBONE.FREEZE", True), torch.device("cpu"))
    assert list(profile.parameters) == ["backbone", "language_backbone", "rpn"]
    total = sum(profile.parameters.values())
    assert total - profile.parameters["language_backbone"] > profile.trained > 0, "cls_logits is frozen, too"
    assert profile.size == (64, 96) and 20 < profile.tokens <= 48
    assert 2 * profile.inference.macs < profile.training.macs < 4 * profile.inference.macs
    for cost in (profile.inference, profile.training):
        assert cost.seconds > 0 and cost.memory > 2**20
    assert re.search(r"^peak memory +\d+ MiB +\d+ MiB$", str(profile), re.MULTILINE)
    lines = str(profile).splitlines()
    assert [line.split("  ")[0].strip() for line in lines[1:2] + lines[-4:]] == [
        "parameters", "operations", "seconds per image", "images per second", "peak memory",
    ]  # fmt: skip


def test_operations_grow_with_the_picture(tmp_path):
    model = build_detection_model(tiny_config(make_text_folder(tmp_path / "text")))
    small, large = (count_operations(model, (side, side), "red cup", is_training=False) for side in (64, 128))
    assert large.text_forward == small.text_forward > 0
    assert 2 < large.picture_forward / small.picture_forward < 4.1
    assert 2 < large.head_forward / small.head_forward < 4.1


@pytest.mark.parametrize(
    ("preset", "parts"),
    [("full", {"text", "picture", "head"}), ("linear_prob", {"head"}), ("language_prompt_v2", {"head"})],
)
def test_operations_of_backward_passes_are_those_of_what_is_trained(tmp_path, preset, parts):
    override = ("SOLVER.TUNING_HIGHLEVEL_OVERRIDE", preset)
    cfg = tuning_highlevel_override(tiny_config(make_text_folder(tmp_path / "text"), *override))
    model = build_detection_model(cfg)
    training, inference = (count_operations(model, (64, 96), "red cup", is_training) for is_training in (True, False))
    assert {part for part in ("text", "picture", "head") if getattr(training, f"{part}_backward")} == parts
    assert not any(getattr(inference, f"{part}_backward") for part in ("text", "picture", "head"))


def test_tool_prints_the_table_and_trains_nothing(tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(training_run, "profile_model", lambda *arguments: asked.append(arguments) or "the table")
    config = str(REPOSITORY / "configs/pretrain/glip_Swin_T_O365_GoldG.yaml")
    options = ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / "out")]
    assert load_tool().main(["--config-file", config, "--profile", *options]) == 0
    ((cfg, device),) = asked
    assert cfg.OUTPUT_DIR == str(tmp_path / "out") and device == torch.device("cpu")
    assert capsys.readouterr().out == "the table\n" and not (tmp_path / "out").exists()


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_deformable_convolution_counts_like_a_convolution(device):
    shapes = {"input": (2, 4, 6, 5), "offset": (2, 18, 6, 5), "weight": (8, 4, 3, 3), "mask": (2, 9, 6, 5)}
    tensors = {name: torch.rand(shape, device=device, requires_grad=True) for name, shape in shapes.items()}
    image, offset, weight, mask = tensors.values()
    expected = 2 * 6 * 5 * 8 * 4 * 9
    assert count_macs(lambda: deform_conv2d(image, offset, weight, mask=mask, padding=1)) == expected
    assert count_macs(lambda: F.conv2d(image, weight, padding=1)) == expected
    both = count_macs(lambda: deform_conv2d(image, offset, weight, mask=mask, padding=1).sum().backward())
    assert both == 3 * expected


def test_attention_counts_on_a_cpu():
    query = torch.rand(1, 2, 7, 4)
    assert count_macs(lambda: F.scaled_dot_product_attention(query, query, query)) == 2 * 2 * 7 * 7 * 4
