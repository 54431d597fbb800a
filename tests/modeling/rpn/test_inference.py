import json

import pytest
import torch
from golden_tools import TOLERANCES, assert_golden, golden_path, golden_tensor, load_golden

from maskrcnn_benchmark.config import cfg
from maskrcnn_benchmark.modeling.anchors import AnchorGenerator
from maskrcnn_benchmark.modeling.box_coder import CenterBoxCoder
from maskrcnn_benchmark.modeling.postprocess.token_scores import build_token_map
from maskrcnn_benchmark.modeling.rpn.inference import ATSSPostProcessor, make_atss_postprocessor
from maskrcnn_benchmark.structures.image_list import ImageList

GLIP_SIZES = ((64,), (128,), (256,), (512,), (1024,))
CASES = ("pp.normal", "pp.many", "pp.zero", "pp.max_agg", "pp.big_reg")


def post_processor(**kwargs) -> ATSSPostProcessor:
    return ATSSPostProcessor(CenterBoxCoder(), **kwargs)


def recorded_case(case: str, device="cpu"):
    """Inputs of a recorded case: box codes, centerness, anchors, dot products, positive map, aggregation."""
    npz, facts = load_golden("postprocess.npz"), json.loads(golden_path("postprocess.json").read_text())[case]
    codes, centerness, dots = (
        [golden_tensor(npz, f"{case}.in.{name}.p{level}").to(device) for level in range(3, 8)]
        for name in ("bbox_reg", "centerness", "dot_logits")
    )
    sizes = [tuple(size) for size in npz[f"{case}.in.image_sizes_hw"].tolist()]
    images = ImageList(torch.zeros(2, 3, *facts["padded_hw"]), sizes)
    anchors = AnchorGenerator(GLIP_SIZES)(images, codes)
    positive_map = {int(label): tokens for label, tokens in facts["positive_map"].items()}
    return npz, codes, centerness, anchors, dots, positive_map, facts["score_agg"]


@pytest.mark.parity
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", ["dict", "dict per image", "token map"])
def test_matches_the_recording(case, form, device):
    npz, codes, centerness, anchors, dots, positive_map, score_agg = recorded_case(case, device)
    maps = {
        "dict": positive_map,
        "dict per image": [positive_map, positive_map],
        "token map": build_token_map(positive_map, 32, device=device),
    }
    results = post_processor(score_agg=score_agg)(
        codes, centerness, anchors, dot_product_logits=dots, positive_map=maps[form]
    )
    for i, detections in enumerate(results):
        name, size = f"{case}.out.img{i}", npz[f"{case}.in.image_sizes_hw"][i].tolist()
        assert detections.size == (size[1], size[0]) and detections.mode == "xyxy"
        assert detections.get_field("labels").tolist() == npz[f"{name}.labels"].tolist()
        assert_golden(detections.bbox, npz, f"{name}.boxes", TOLERANCES["boxes"])
        assert_golden(detections.get_field("scores"), npz, f"{name}.scores", TOLERANCES["scores"])


def one_level(height=4, width=4, tokens=3, batch=1, size=None):
    """Everything at a low score, centerness 1/2, on a level of stride 8 with anchors of 8 pixels."""
    generator = AnchorGenerator([(8,)], (1.0,), (8,))
    codes, centerness = [torch.zeros(batch, 4, height, width)], [torch.zeros(batch, 1, height, width)]
    sizes = [size or (8 * height, 8 * width)] * batch
    anchors = generator(ImageList(torch.zeros(batch, 3, 8 * height, 8 * width), sizes), codes)
    dots = [torch.full((batch, height * width, tokens), -20.0)]
    return codes, centerness, anchors, dots


def logit(p: float) -> float:
    return torch.logit(torch.tensor(p)).item()


def detect(processor, codes, centerness, anchors, dots, positive_map):
    return processor(codes, centerness, anchors, dot_product_logits=dots, positive_map=positive_map)


def test_the_threshold_comes_before_the_centerness_and_the_score_is_a_root():
    codes, centerness, anchors, dots = one_level()
    dots[0][0, 5, 0] = logit(0.06)
    dots[0][0, 7, 0] = logit(0.04)
    centerness[0][0, 0, 1, 1] = logit(0.01)
    (found,) = detect(post_processor(), codes, centerness, anchors, dots, {3: [0]})
    assert found.bbox.tolist() == [[8, 8, 15, 15]]
    assert found.get_field("labels").tolist() == [3]
    assert found.get_field("scores").item() == pytest.approx((0.06 * 0.01) ** 0.5, rel=1e-4)


def test_boxes_end_at_the_picture_without_its_padding():
    codes, centerness, anchors, dots = one_level(size=(12, 13))
    dots[0][0, 5, 0] = 5.0
    codes[0][0, 2:] = 5.0
    (found,) = detect(post_processor(), codes, centerness, anchors, dots, {1: [0]})
    assert found.size == (13, 12)
    assert found.bbox.tolist() == [[pytest.approx(11.5 - 0.5 * (8 * 2.71828 - 1), abs=1e-3)] * 2 + [12, 11]]


def test_ties_of_the_last_detection_all_stay():
    codes, centerness, anchors, dots = one_level(12, 12)
    dots[0][0, :, 0] = logit(0.5)
    dots[0][0, :40, 0] = logit(0.9)
    dots[0][0, 140:, 0] = logit(0.1)
    (found,) = detect(post_processor(max_detections=100), codes, centerness, anchors, dots, {1: [0]})
    assert len(found) == 140
    scores = found.get_field("scores")
    assert torch.equal(scores, scores.sort(descending=True).values)
    (found,) = detect(post_processor(max_detections=0), codes, centerness, anchors, dots, {1: [0]})
    assert len(found) == 144


def test_suppression_is_within_labels_and_can_be_left_out():
    codes, centerness, anchors, dots = one_level()
    codes[0][0, 0, 1, 2] = -9.0  # the box of location 6 moves onto that of location 5
    dots[0][0, 5:7, 0], dots[0][0, 6, 1] = torch.tensor([logit(0.9), logit(0.8)]), logit(0.7)
    (found,) = detect(post_processor(), codes, centerness, anchors, dots, {1: [0], 2: [1]})
    assert found.get_field("labels").tolist() == [1, 2]
    (found,) = detect(post_processor(nms_threshold=0), codes, centerness, anchors, dots, {1: [0], 2: [1]})
    assert found.get_field("labels").tolist() == [1, 1, 2]
    raw = post_processor(is_raw=True, max_detections=1)
    assert len(detect(raw, codes, centerness, anchors, dots, {1: [0], 2: [1]})[0]) == 3


def test_the_best_of_a_level_are_counted_over_locations_and_classes():
    codes, centerness, anchors, dots = one_level()
    dots[0][0, :, 0], dots[0][0, :, 1] = logit(0.5), logit(0.6)
    dots[0][0, 3, 2] = logit(0.9)
    (found,) = detect(post_processor(pre_nms_top_n=5), codes, centerness, anchors, dots, {1: [0], 2: [1], 3: [2]})
    assert sorted(found.get_field("labels").tolist()) == [2, 2, 2, 2, 3]


def test_every_image_has_a_map_of_its_own():
    codes, centerness, anchors, dots = one_level(batch=2)
    dots[0][:, 5, 0], dots[0][:, 9, 1] = 5.0, 5.0
    results = detect(post_processor(), codes, centerness, anchors, dots, [{4: [0], 6: [1]}, {500: [1]}])
    assert sorted(results[0].get_field("labels").tolist()) == [4, 6]
    assert results[1].get_field("labels").tolist() == [500]
    with pytest.raises(ValueError, match="3 positive maps for a batch of 2"):
        detect(post_processor(), codes, centerness, anchors, dots, [{1: [0]}] * 3)


@pytest.mark.parametrize("positive_map", [None, {}, {1: []}, {1: [2]}])
def test_nothing_found(positive_map):
    codes, centerness, anchors, dots = one_level(batch=2)
    dots[0][:, 5, 0] = 5.0
    for found in detect(post_processor(), codes, centerness, anchors, dots, positive_map):
        assert len(found) == 0 and found.get_field("labels").dtype == torch.int64
        assert found.get_field("scores").shape == (0,)


def test_class_logits_and_token_logits():
    codes, centerness, anchors, _ = one_level(tokens=3)
    classes = [torch.full((1, 3, 4, 4), -20.0)]
    classes[0][0, 2, 1, 3] = 5.0
    (found,) = post_processor()(codes, centerness, anchors, box_cls=classes)
    assert found.get_field("labels").tolist() == [3] and found.bbox.tolist() == [[24, 8, 31, 15]]
    (found,) = post_processor()(codes, centerness, anchors, classes, classes, positive_map={9: [2]})
    assert found.get_field("labels").tolist() == [9] and found.bbox.tolist() == [[24, 8, 31, 15]]
    with pytest.raises(ValueError, match="got none"):
        post_processor()(codes, centerness, anchors)


def test_several_anchors_per_location():
    generator = AnchorGenerator([(8, 16)], (1.0,), (8,))
    codes, centerness = [torch.zeros(1, 8, 2, 2)], [torch.zeros(1, 2, 2, 2)]
    anchors = generator(torch.zeros(1, 3, 64, 64), codes)
    dots = [torch.full((1, 8, 1), -20.0)]
    dots[0][0, 7] = 5.0  # the second anchor of the last cell
    centerness[0][0, 1, 1, 1] = 20.0
    codes[0][0, 4:, 1, 1] = torch.tensor([0.0, 0.0, -5 * torch.log(torch.tensor(2.0)), 0.0])
    (found,) = detect(post_processor(), codes, centerness, anchors, dots, {1: [0]})
    torch.testing.assert_close(found.bbox, torch.tensor([[8.0, 4, 15, 19]]))
    assert found.get_field("scores").item() == pytest.approx(torch.sigmoid(torch.tensor(5.0)).sqrt().item())


def test_configuration():
    config = cfg.clone()
    config.merge_from_list(["MODEL.DYHEAD.SCORE_AGG", "MAX", "MODEL.ATSS.DETECTIONS_PER_IMG", 300])
    test, train = (make_atss_postprocessor(config, CenterBoxCoder(), is_train=flag) for flag in (False, True))
    assert (test.pre_nms_threshold, test.pre_nms_top_n, test.max_detections) == (0.05, 1000, 300)
    assert (train.pre_nms_threshold, train.pre_nms_top_n, train.max_detections) == (0.0, 3000, 1000)
    assert test.score_agg == "MAX" and test.nms_threshold == 0.6 and not test.is_raw
    config.merge_from_list(["MODEL.DYHEAD.SCORE_AGG", "SUM"])
    with pytest.raises(ValueError, match="'SUM'; known are"):
        make_atss_postprocessor(config, CenterBoxCoder())
