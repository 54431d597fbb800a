"""The detector called as other projects call the original: dicts and tensors of all kinds in, boxes or losses out."""

import numpy as np
import pytest
import torch
from tiny_detector import (
    assert_same_boxes,
    positive_rows,
    random_images,
    scramble,
    target,
    tiny_config,
)

from maskrcnn_benchmark.modeling.detector import build_detection_model, disable_stochasticity
from maskrcnn_benchmark.structures.bounding_box import BoxList

SIZES = ((70, 90), (64, 100))  # heights and widths
CAPTIONS = ["red star. blue cup", "cup"]  # [CLS] red star . blue cup [SEP]
TOKENS = 48
MAP = {1: [1, 2], 2: [4, 5]}


@pytest.fixture(scope="module")
def model(text_folder):
    cfg = tiny_config(text_folder)
    cfg.freeze()
    torch.manual_seed(0)
    model = scramble(build_detection_model(cfg))
    with torch.no_grad():
        model.rpn.head.bias0.fill_(-2.0)
    return disable_stochasticity(model)


@torch.no_grad()
def detect(model, positive_map, captions=tuple(CAPTIONS), images=None):
    images = random_images(*SIZES) if images is None else images
    return model.eval()(images, captions=list(captions), positive_map=positive_map)


def losses(model, targets, positive_map, captions=tuple(CAPTIONS), images=None):
    model.train().zero_grad()
    return model(images or random_images(*SIZES), targets, list(captions), positive_map)


def two_targets() -> list[BoxList]:
    return [target([[1, 2, 30, 40], [10, 10, 60, 60]], (90, 70)), target([[5, 5, 50, 50]], (100, 64))]


BOX_TOKENS = [[1, 2], [4, 5], [1]]


def test_modes_can_be_chained(model):
    assert model.train() is model and model.eval() is model


def test_what_comes_out(model):
    detections = detect(model, MAP)
    assert [boxes.size for boxes in detections] == [(90, 70), (100, 64)]
    for boxes in detections:
        labels, scores = boxes.get_field("labels"), boxes.get_field("scores")
        assert len(boxes) and set(labels.tolist()) <= {1, 2} and labels.dtype == torch.int64
        assert (scores[:-1] >= scores[1:]).all() and ((scores > 0) & (scores <= 1)).all()
        assert boxes.mode == "xyxy" and boxes.fields() == ["labels", "scores"]
        x1, y1, x2, y2 = boxes.bbox.unbind(1)
        width, height = boxes.size
        assert x1.min() >= 0 and y1.min() >= 0 and x2.max() <= width - 1 and y2.max() <= height - 1


@pytest.mark.parametrize(
    "other",
    [
        {2: (4, 5), 1: range(1, 3)},
        {1: torch.tensor([1, 2]), 2: np.array([4, 5])},
        {np.int64(1): [np.int32(1), 2], np.uint8(2): [torch.tensor(4), 5]},
        {1: [1, 2], 2: [4, 5], 3: []},
        [MAP, MAP],
        (MAP, dict(MAP)),
    ],
)
def test_spellings_of_a_positive_map(model, other):
    assert_same_boxes(detect(model, other), detect(model, MAP), atol=0)


def test_a_number_stands_for_a_list_of_one(model):
    expected = detect(model, {1: [1], 2: [5]})
    assert_same_boxes(detect(model, {1: 1, 2: np.int64(5)}), expected, atol=0)
    assert_same_boxes(detect(model, {1: torch.tensor(1), 2: 5}), expected, atol=0)


def test_labels_of_any_size(model):
    far = detect(model, {100: MAP[1], 3000: MAP[2]})
    near = detect(model, MAP)
    for one, other in zip(far, near, strict=True):
        renamed = torch.tensor([{100: 1, 3000: 2}[int(label)] for label in one.get_field("labels")])
        assert torch.equal(renamed, other.get_field("labels")) and torch.equal(one.bbox, other.bbox)


def test_every_image_can_have_its_own_map(model):
    """A map per image gives what each image gives alone in the same batch under its own map."""
    own = detect(model, [{1: [1, 2]}, {7: [1]}])
    assert_same_boxes(own[:1], detect(model, {1: [1, 2]})[:1])
    assert_same_boxes(own[1:], detect(model, {7: [1]})[1:])
    assert len(own[1]) and set(own[1].get_field("labels").tolist()) == {7}
    assert [len(boxes) for boxes in detect(model, [None, {7: [1]}])] == [0, len(own[1])]


@pytest.mark.parametrize("nothing", [None, {}, {1: []}, [{}, {}]])
def test_without_labels_there_are_no_detections(model, nothing):
    detections = detect(model, nothing)
    assert [len(boxes) for boxes in detections] == [0, 0]
    assert all(boxes.get_field("labels").dtype == torch.int64 for boxes in detections)


@pytest.mark.parametrize(
    ("captions", "positive_map", "message"),
    [
        ("red star", MAP, "got the string 'red star'"),
        (["red star"], MAP, "one caption per image, got 1 for 2 images"),
        (CAPTIONS * 2, MAP, "one caption per image, got 4 for 2 images"),
        (None, MAP, "needs captions"),
        (CAPTIONS, [MAP] * 3, "3 positive maps for a batch of 2"),
        (CAPTIONS, {1: [48]}, "label 1 has token position 48, but the text has 48"),
        (CAPTIONS, {1: [-1]}, "label 1 has token position -1"),
        (CAPTIONS, {"1": [1]}, "labels of a positive map must be integers, got '1'"),
        (CAPTIONS, positive_rows(BOX_TOKENS, TOKENS), "must be a dict of labels"),
    ],
)
def test_calls_that_cannot_work(model, captions, positive_map, message):
    with pytest.raises(ValueError, match=message):
        model.eval()(random_images(*SIZES), captions=captions, positive_map=positive_map)


def test_ways_to_pass_images(model):
    images = random_images((64, 96), (64, 96))
    expected = detect(model, MAP, images=images)
    assert_same_boxes(detect(model, MAP, images=images.tensors), expected, atol=0)
    assert_same_boxes(detect(model, MAP, images=list(images.tensors)), expected, atol=0)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (33, 31)])
def test_images_of_odd_sizes_without_padding(model, size):
    with torch.no_grad():
        (boxes,) = model.eval()(torch.randn(1, 3, *size), captions=["red star"], positive_map={1: [1, 2]})
    assert boxes.size == size[::-1] and boxes.bbox.isfinite().all()


def test_a_caption_of_every_length(model):
    for caption in ("", ".", "red star. " * 40):
        assert all(boxes.bbox.isfinite().all() for boxes in detect(model, {1: [1]}, [caption, "cup"]))
    assert detect(model, {1: [TOKENS - 1]}, ["red star. " * 40, "cup"])


def test_trimmed_text_changes_nothing(model, text_folder):
    """Neither the boxes, nor which positions a map may name: one beyond the longest caption brings all positions."""
    whole = build_detection_model(tiny_config(text_folder, "MODEL.LANGUAGE_BACKBONE.TRIM_PADDING", False)).eval()
    whole.load_state_dict(model.state_dict())
    assert model.text_policy.trim and not whole.text_policy.trim
    for positive_map in (MAP, {1: [1, 2], 2: [40]}, {3: [30, 47]}):
        assert_same_boxes(detect(model, positive_map), detect(whole, positive_map), atol=1e-5)
    text = model.eval().encode_text(CAPTIONS)
    assert text.hidden.shape[1] == 7 and model.encode_text(CAPTIONS, min_tokens=8).hidden.shape[1] == TOKENS
    assert model.train().encode_text(CAPTIONS).hidden.shape[1] == TOKENS


@pytest.mark.parametrize(("limit", "length"), [(48, 16), (32, 16), (20, 7)])
def test_accelerated_text_is_never_longer_than_the_limit(model, monkeypatch, limit, length):
    """Its lengths are multiples of a number, which need not divide the limit."""
    model.eval()
    monkeypatch.setattr(model, "accelerated_form", lambda: True)
    monkeypatch.setattr(model, "text_policy", model.text_policy._replace(max_length=limit))
    assert model.tokenize(CAPTIONS, trim=True).input_ids.shape[1] == length
    assert model.tokenize(["red star. " * 40], trim=True).input_ids.shape[1] == limit


def test_text_and_image_are_encoded_once(model):
    model.eval()
    images = random_images(*SIZES)
    with torch.no_grad():
        features, text = model.encode_image(images), model.encode_text(CAPTIONS)
        before = [level.clone() for level in features.levels], text.hidden.clone()
        for positive_map in (MAP, {9: [1]}, [MAP, {4: [1]}]):
            ours = model.detect(features, text, positive_map)
            assert_same_boxes(ours, model(images, captions=CAPTIONS, positive_map=positive_map), atol=1e-5)
        assert all(map(torch.equal, features.levels, before[0])) and torch.equal(text.hidden, before[1])
        with pytest.raises(ValueError, match="one caption per image, got 1 for 2 images"):
            model.detect(features, model.encode_text(["cup"]), MAP)


@pytest.mark.parametrize("fused", [True, False])
def test_region_and_word_features_give_the_logits(text_folder, fused):
    cfg = tiny_config(text_folder, "MODEL.DYHEAD.FUSE_CONFIG.USE_FUSED_FEATURES_DOT_PRODUCT", fused)
    torch.manual_seed(0)
    model = scramble(build_detection_model(cfg)).eval()
    seen = {}
    select = model.rpn.select
    model.rpn.select = lambda outputs, *args: seen.update(logits=outputs.dot_product_logits) or select(outputs, *args)
    with torch.no_grad():
        detections, features = model(random_images(*SIZES), captions=CAPTIONS, positive_map=MAP, return_features=True)
        assert_same_boxes(detections, detect(model, MAP), atol=0)
    assert features.words.shape == (2, 7, 16) and features.word_bias.shape == (2, 7)
    for regions, logits in zip(features.regions, seen["logits"], strict=True):
        expected = torch.einsum("bchw,btc->bhwt", regions, features.words).flatten(1, 2) / features.temperature
        torch.testing.assert_close(logits, expected + features.word_bias[:, None])


def test_features_that_a_configuration_does_not_have(text_folder):
    fuse = "MODEL.DYHEAD.FUSE_CONFIG"
    cfg = tiny_config(text_folder, f"{fuse}.USE_DOT_PRODUCT_TOKEN_LOSS", False)
    model = build_detection_model(cfg).eval()
    with pytest.raises(ValueError, match="return_features needs the dot-product branch"):
        model(random_images(*SIZES), captions=CAPTIONS, positive_map=MAP, return_features=True)


def test_losses_are_scalars_with_gradients(model):
    result = losses(model, two_targets(), positive_rows(BOX_TOKENS, TOKENS))
    assert list(result) == ["loss_reg", "loss_centerness", "loss_cls", "loss_dot_product_token"]
    assert all(loss.shape == () and loss.isfinite() for loss in result.values()) and result["loss_cls"] == 0
    sum(result.values()).backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {"rpn.head.cls_logits.weight", "rpn.head.cls_logits.bias"}


def same_losses(ours, theirs) -> None:
    assert list(ours) == list(theirs)
    for name, loss in ours.items():
        torch.testing.assert_close(loss, theirs[name])


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16])
def test_number_formats_of_the_training_map(model, dtype):
    expected = losses(model, two_targets(), positive_rows(BOX_TOKENS, TOKENS))
    same_losses(losses(model, two_targets(), positive_rows(BOX_TOKENS, TOKENS).to(dtype)), expected)


def test_targets_with_fields_of_any_kind(model):
    expected = losses(model, two_targets(), positive_rows(BOX_TOKENS, TOKENS))
    targets = two_targets()
    for boxes in targets:
        boxes.add_field("labels", boxes.get_field("labels").to(torch.int32) + 500)
        for name, value in {
            "caption": "a caption", "list": [1, 2, 3], "dict": {"a": 1}, "none": None, "array": np.zeros(7),
            "tensor of another length": torch.zeros(5, 2), "object": object(), "number": 3,
        }.items():  # fmt: skip
            boxes.add_field(name, value)
    same_losses(
        losses(model, [boxes.convert("xywh") for boxes in two_targets()], positive_rows(BOX_TOKENS, TOKENS)), expected
    )
    same_losses(losses(model, tuple(targets), positive_rows(BOX_TOKENS, TOKENS)), expected)


@pytest.mark.parametrize("empty", [(1,), (0, 1)])
def test_images_without_boxes(model, empty):
    """An image without boxes is all background; a batch without any has no box losses but keeps its gradients."""
    targets, rows = two_targets(), []
    for i, boxes in enumerate(targets):
        if i in empty:
            targets[i] = target([], boxes.size)
        else:
            rows += BOX_TOKENS[:2]
    result = losses(model, targets, positive_rows(rows, TOKENS))
    assert all(loss.isfinite() for loss in result.values()) and result["loss_dot_product_token"] > 0
    assert (result["loss_reg"].item() == 0) is (len(empty) == 2)
    sum(result.values()).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_an_image_without_boxes_does_not_change_the_assignment_of_the_others(model):
    images = random_images((64, 96), (64, 96))
    boxes = target([[1, 2, 30, 40], [10, 10, 60, 60]], (96, 64))
    rows = positive_rows(BOX_TOKENS[:2], TOKENS)
    captions = ["red star", "red star"]
    first = losses(model, [boxes, target([], (96, 64))], rows, captions, images)
    images.tensors = images.tensors.flip(0)
    second = losses(model, [target([], (96, 64)), boxes], rows, captions, images)
    same_losses(first, second)


@pytest.mark.parametrize(
    ("targets", "positive_map", "message"),
    [
        (None, None, "training needs targets"),
        (two_targets()[:1], positive_rows(BOX_TOKENS[:2], TOKENS), "one target per image, got 1 for 2 images"),
        ([None, two_targets()[1]], positive_rows(BOX_TOKENS[2:], TOKENS), "one target per image, got 1 for 2 images"),
        (two_targets(), None, "need a positive_map.*got NoneType"),
        (two_targets(), MAP, "need a positive_map.*got dict"),
        (two_targets(), positive_rows(BOX_TOKENS[:2], TOKENS), "each of the 3 boxes of the batch"),
        (two_targets(), positive_rows(BOX_TOKENS, 20), "has 20 columns, but the text 48"),
    ],
)
def test_training_calls_that_cannot_work(model, targets, positive_map, message):
    with pytest.raises(ValueError, match=message):
        losses(model, targets, positive_map)


def test_training_after_inference_mode(model):
    """Grids and tokens that were made without gradients are no obstacle later."""
    images = random_images((40, 72), (40, 72))
    with torch.inference_mode():
        model.eval()(images, captions=CAPTIONS, positive_map=MAP)
    result = losses(model, two_targets(), positive_rows(BOX_TOKENS, TOKENS), images=images)
    sum(result.values()).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients) and any(gradient.any() for gradient in gradients)


def test_mixed_precision(model):
    expected = losses(model, two_targets(), positive_rows(BOX_TOKENS, TOKENS))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = losses(model, two_targets(), positive_rows(BOX_TOKENS, TOKENS))
        detections = detect(model, MAP)
    assert all(len(boxes) and boxes.bbox.dtype == torch.float32 for boxes in detections)
    for name, loss in result.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[name], rtol=0.05, atol=0.01)
    model.train()
    sum(result.values()).backward()


@torch.no_grad()
def test_the_head_takes_text_features_as_a_plain_dict(model):
    """As code does that was written for the original, whose text features are one."""
    model.eval()
    images, text = random_images(*SIZES), model.encode_text(CAPTIONS)
    levels = model.backbone(images.tensors)
    as_dict = {name: text[name] for name in ("aggregate", "embedded", "masks", "hidden")}
    expected, losses, fused = model.rpn(images, levels, None, text, MAP)
    found, *_ = model.rpn(images, levels, language_dict_features=as_dict, positive_map=MAP, captions=CAPTIONS)
    assert losses == {} and fused is None
    assert_same_boxes(found, expected, atol=0)
    (*_, logits, _, _, _), (*_, expected_logits, _, _, _) = (
        model.rpn.head(levels, language_dict_features=one, embedding=text.embedded) for one in (as_dict, text)
    )
    assert all(map(torch.equal, logits, expected_logits))
    with pytest.raises(KeyError, match="hidden"):
        model.rpn.head(levels, {"masks": text.masks})
