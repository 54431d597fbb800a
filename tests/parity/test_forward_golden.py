"""One picture through the full-size detectors, every stage fed by our own previous one, from pixels and a caption."""

import functools

import pytest
import torch
from golden.weights_recipe import BIAS0
from golden_tools import TOLERANCES, assert_golden, load_golden
from parity.model_golden import (
    DEVICE,
    GLIP_T,
    assert_same_detections,
    build_golden_model,
    forward_model,
    golden_image,
    golden_json,
    label_map,
    model_config,
    recorded_names,
    recorded_stages,
    stage_tolerance,
)

from maskrcnn_benchmark.modeling.rpn.inference import make_atss_postprocessor
from maskrcnn_benchmark.structures.image_list import to_image_list

STAGE_KINDS = ("swin", "fpn", "lang", "tower", "dyconv0", "head")
GLIP_A, GLIP_L = "glip_A_Swin_T_O365", "glip_Swin_L"
FIRST_DYCONV = {GLIP_T: 2, GLIP_A: 0, GLIP_L: 2}
MODELS = [
    pytest.param(GLIP_T, id="GLIP-T"),
    pytest.param(GLIP_A, marks=pytest.mark.slow, id="GLIP-T(A)"),
    pytest.param(GLIP_L, marks=pytest.mark.slow, id="GLIP-L"),
]
pytestmark = pytest.mark.parity


@pytest.fixture(scope="module", params=MODELS)
def name(request) -> str:
    """A configuration; the scope makes pytest finish one before it starts the next, so that each runs once."""
    return request.param


@functools.lru_cache(maxsize=1)
def run(name: str):
    """(golden arrays, recorded facts, our stages, our detections, original (width, height)) of a configuration."""
    npz, facts = load_golden(f"forward_{name}.npz"), golden_json(f"forward_{name}.json")
    image, original_size = golden_image(model_config(name), facts["image"])
    model = forward_model(name)
    images = to_image_list([image], 32).to(DEVICE)
    with torch.no_grad(), recorded_stages(model) as stages:
        anchors = {}
        handle = model.rpn.anchor_generator.register_forward_hook(lambda _m, _i, out: anchors.update(all=out))
        detections = model(
            images, captions=[facts["caption"]], positive_map=label_map(facts["positive_map_label_to_token"])
        )
        handle.remove()
    stages["transform.out"] = image
    stages["anchors"] = anchors["all"]
    return npz, facts, stages, detections[0], original_size


def test_transform_and_tokens(name):
    npz, facts, stages, *_ = run(name)
    assert_golden(stages["transform.out"], npz, "transform.out", TOLERANCES["transform"])
    tokens = forward_model(name).tokenize([facts["caption"]], trim=True)
    assert_golden(tokens.input_ids[0], npz, "input_ids", TOLERANCES["exact"])


@pytest.mark.parametrize("kind", STAGE_KINDS)
def test_stages(name, kind):
    npz, _, stages, *_ = run(name)
    names = [stage for stage in recorded_names(npz) if stage.startswith(f"{kind}.")]
    if not names:
        assert kind == "dyconv0" and name != GLIP_T, f"no stage {kind} is recorded"
    for stage in names:
        assert_golden(stages[stage], npz, stage, stage_tolerance(stage, FIRST_DYCONV[name]))


def test_anchors(name):
    npz, _, stages, *_ = run(name)
    levels = stages["anchors"][0]
    assert len(levels) == 5
    for level, anchors in enumerate(levels, start=3):
        assert len(anchors) == int(npz[f"anchors.p{level}.count"])
        assert_golden(anchors.bbox[:10], npz, f"anchors.p{level}.first10", TOLERANCES["exact"])
        assert_golden(anchors.bbox[-1], npz, f"anchors.p{level}.last", TOLERANCES["exact"])
        assert int(anchors.get_field("visibility").sum()) == int(npz[f"anchors.p{level}.visible_count"])


def assert_detections(detections, npz, prefix, original_size, **kwargs):
    labels, scores = detections.get_field("labels"), detections.get_field("scores")
    assert_same_detections(detections.bbox, labels, scores, npz, prefix, **kwargs)
    assert labels.dtype == torch.int64
    assert (scores[:-1] >= scores[1:]).all(), "detections are best first"
    resized = detections.resize(original_size).bbox
    original = {f"{prefix}.{n}": npz[f"{prefix}.{n}"] for n in ("labels", "scores")}
    original[f"{prefix}.boxes"] = npz[f"{prefix}.boxes_original"]
    assert_same_detections(resized, labels, scores, original, prefix, **kwargs)


def test_detections(name):
    npz, _, _, detections, original_size = run(name)
    assert_detections(detections, npz, "det.MEAN.cuda_nms.img0", original_size)


AGGREGATIONS = {
    "MAX": ("MAX", -1),
    "ONEHOT": ("ONEHOT", -1),
    "v2_MEAN": ("MEAN", 100),
    "v2_MAX": ("MAX", 100),
    "v2_POWER": ("POWER", 100),
}


def select(name, dot_product_logits, aggregation="MEAN", num_classes=-1):
    _, facts, stages, *_ = run(name)
    cfg = model_config(name, "MODEL.DYHEAD.SCORE_AGG", aggregation, "TEST.MDETR_STYLE_AGGREGATE_CLASS_NUM", num_classes)
    selector = make_atss_postprocessor(cfg, forward_model(name).rpn.box_selector_test.box_coder)
    levels = [f"p{i}" for i in range(3, 8)]
    regression = [stages[f"head.bbox_reg.{level}"] for level in levels]
    centerness = [stages[f"head.centerness.{level}"] for level in levels]
    positive_map = label_map(facts["positive_map_label_to_token"])
    with torch.no_grad():
        return selector(regression, centerness, stages["anchors"], None, None, dot_product_logits, positive_map)[0]


@pytest.mark.parametrize("variant", AGGREGATIONS)
def test_detections_of_other_aggregations(name, variant):
    npz, _, stages, _, original_size = run(name)
    if f"det.{variant}.cuda_nms.img0.boxes" not in npz.files:
        pytest.fail(f"{variant} is not recorded")
    logits = [stages[f"head.dot_logits.p{i}"] for i in range(3, 8)]
    detections = select(name, logits, *AGGREGATIONS[variant])
    assert_detections(detections, npz, f"det.{variant}.cuda_nms.img0", original_size)


def test_detections_from_all_levels():
    npz = load_golden(f"forward_{GLIP_T}__levelshift.npz")
    _, _, stages, _, original_size = run(GLIP_T)
    logits = [stages[f"head.dot_logits.p{i + 3}"] + float(shift) for i, shift in enumerate(npz["level_shift"])]
    prefixed = {f"shift.{name}": npz[name] for name in npz.files}
    assert_detections(select(GLIP_T, logits), prefixed, "shift", original_size)


@pytest.mark.slow
def test_trimmed_text_gives_the_same_detections():
    npz, facts, _, _, original_size = run(GLIP_T)
    model = build_golden_model(model_config(GLIP_T), BIAS0[GLIP_T])
    assert model.text_policy.trim
    image, _ = golden_image(model_config(GLIP_T), facts["image"])
    positive_map = label_map(facts["positive_map_label_to_token"])
    with torch.no_grad():
        images = to_image_list([image], 32).to(DEVICE)
        detections = model(images, captions=[facts["caption"]], positive_map=positive_map)[0]
    assert_detections(detections, npz, "det.MEAN.cuda_nms.img0", original_size)


@pytest.mark.slow
def test_two_padded_pictures_with_two_captions():
    name = f"batch2_{GLIP_T}"
    npz, facts = load_golden(f"forward_{name}.npz"), golden_json(f"forward_{name}.json")
    cfg = model_config(GLIP_T)
    pictures = [golden_image(cfg, picture) for picture in facts["images"]]
    images = to_image_list([tensor for tensor, _ in pictures], 32).to(DEVICE)
    assert tuple(images.tensors.shape) == tuple(npz["batch.shape"])
    positive_map = label_map(facts["positive_map_label_to_token(shared by both images)"])
    model = forward_model(GLIP_T)
    with torch.no_grad():
        with recorded_stages(model) as stages:
            detections = model(images, captions=facts["captions"], positive_map=positive_map)
        separate_maps = model(images, captions=facts["captions"], positive_map=[positive_map, positive_map])
    assert_golden(images.tensors, npz, "batch.tensor", TOLERANCES["transform"])
    for stage in recorded_names(npz):
        if stage.split(".")[0] in STAGE_KINDS:
            assert_golden(stages[stage], npz, stage, stage_tolerance(stage, 2))
    for i, (result, (_, original_size)) in enumerate(zip(detections, pictures, strict=True)):
        prefix = f"det.MEAN.cuda_nms.img{i}"
        assert_detections(result, npz, prefix, original_size, swaps_at_the_end=3)
        torch.testing.assert_close(result.bbox, separate_maps[i].bbox)
