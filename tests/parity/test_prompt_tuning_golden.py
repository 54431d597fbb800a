"""A small picture through the full-size detector with the learnt prompt of prompt tuning added to the text."""

import functools

import pytest
import torch
from golden.weights_recipe import fill
from golden_tools import assert_golden, load_golden
from parity.model_golden import (
    DEVICE,
    GLIP_T,
    assert_same_detections,
    build_golden_model,
    golden_image,
    golden_json,
    label_map,
    model_config,
    recorded_stages,
    stage_tolerance,
)

from maskrcnn_benchmark.structures.image_list import to_image_list

pytestmark = [pytest.mark.parity, pytest.mark.slow]

RECORDED = "language_prompt_v2_forward.npz"
OPTIONS = (
    *("MODEL.DYHEAD.FUSE_CONFIG.ADD_LINEAR_LAYER", True, "MODEL.LANGUAGE_BACKBONE.TRIM_PADDING", False),
    *("INPUT.MIN_SIZE_TEST", 320),
)
PROMPT = "rpn.tunable_linear.weight"
STAGE_KINDS = ("lang", "swin", "fpn", "tower", "head")


@functools.lru_cache(maxsize=1)
def prompted_model():
    return build_golden_model(model_config(GLIP_T, *OPTIONS), float(load_golden(RECORDED)["bias0"]))


@functools.lru_cache(maxsize=2)
def run(case: str):
    """(golden arrays under their names without the case, our stages, our detections)."""
    npz, facts = load_golden(RECORDED), golden_json(f"forward_{GLIP_T}.json")
    model = prompted_model()
    image, size = golden_image(model_config(GLIP_T, *OPTIONS), "train_img0.png")
    assert size == tuple(npz["image_wh"]) and image.shape[1:] == size[::-1]
    prompt = model.get_parameter(PROMPT)
    with torch.no_grad(), recorded_stages(model) as stages:
        prompt.copy_(torch.from_numpy(fill(PROMPT, tuple(prompt.shape))) if case == "tunable" else prompt * 0)
        positive_map = label_map(facts["positive_map_label_to_token"])
        images = to_image_list([image], 32).to(DEVICE)
        detections = model(images, captions=[facts["caption"]], positive_map=positive_map)[0]
    return npz, stages, detections


@pytest.mark.parametrize("kind", STAGE_KINDS)
@pytest.mark.parametrize("case", ["tunable", "zero"])
def test_stages(case, kind):
    """`lang` is recorded before the prompt is added, everything behind it sees the sum."""
    npz, stages, _ = run(case)
    names = {name.split("__")[0].removeprefix(f"{case}.") for name in npz.files if name.startswith(f"{case}.{kind}.")}
    assert names
    for name in sorted(names):
        assert_golden(stages[name], npz, f"{case}.{name}", stage_tolerance(name, 2))


@pytest.mark.parametrize(("case", "number"), [("tunable", 77), ("zero", 90)])
def test_detections(case, number):
    npz, _, detections = run(case)
    assert len(detections) == number
    labels, scores = detections.get_field("labels"), detections.get_field("scores")
    assert_same_detections(detections.bbox, labels, scores, npz, case)


def test_the_prompt_is_a_table_of_a_thousand_rows():
    prompt = prompted_model().get_parameter(PROMPT)
    assert prompt.shape == (1000, 768)
