"""GLIPDemo with a fake network: what is sent to the network, what comes back, and what is drawn."""

import json

import numpy as np
import pytest
import torch
from golden_tools import TOLERANCES, assert_golden, golden_path, load_golden
from PIL import Image

from maskrcnn_benchmark.config import default_config
from maskrcnn_benchmark.engine import predictor_glip
from maskrcnn_benchmark.engine.predictor import COCODemo
from maskrcnn_benchmark.engine.predictor_glip import GLIPDemo
from maskrcnn_benchmark.structures.bounding_box import BoxList

PLANTED = BoxList([[10.0, 20.0, 30.0, 60.0], [5.0, 5.0, 400.0, 300.0], [1.0, 2.0, 3.0, 4.0]], (479, 320))
PLANTED.add_field("scores", torch.tensor([0.2, 0.9, 0.5]))
PLANTED.add_field("labels", torch.tensor([1, 2, 1]))


class FakeNetwork:
    """Remembers how it was called and returns the planted boxes."""

    def __call__(self, images, captions=None, positive_map=None):
        self.images, self.captions, self.positive_map = images, captions, positive_map
        return [PLANTED]


@pytest.fixture(scope="module")
def picture():
    return np.array(Image.open(golden_path("img_b.png")).convert("RGB"))[:, :, ::-1].copy()


@pytest.fixture(scope="module")
def recorded():
    return json.loads(golden_path("text/demo.json").read_text())


@pytest.fixture
def make_demo(bert_vocabulary):
    def make(**arguments):
        cfg = default_config()
        cfg.merge_from_file("configs/pretrain/glip_Swin_T_O365_GoldG.yaml")
        cfg.merge_from_list(["MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE", bert_vocabulary, "MODEL.DEVICE", "cpu"])
        demo = GLIPDemo(cfg, load_model=False, **{"min_image_size": 320, "confidence_threshold": 0.3, **arguments})
        demo.model = FakeNetwork()
        return demo

    return make


@pytest.mark.parity
@pytest.mark.parametrize("form", ["list", "string", "custom_span"])
def test_compute_prediction_equals_the_recorded_one(make_demo, picture, recorded, form):
    golden = recorded[f"compute_prediction.{form}"]
    demo = make_demo()
    predictions = demo.compute_prediction(picture, golden["input"], golden["custom_entity"])

    assert demo.model.captions == golden["caption_sent_to_model"]
    assert demo.model.positive_map == {int(label): tokens for label, tokens in golden["positive_map"].items()}
    assert list(demo.model.images.tensors.shape) == golden["batch_shape"]
    assert [list(size) for size in demo.model.images.image_sizes] == golden["image_sizes"]
    assert_golden(demo.model.images.tensors, load_golden("demo.npz"), "demo.batch_tensor", TOLERANCES["transform"])

    assert predictions.size == (640, 427)
    np.testing.assert_allclose(predictions.bbox, golden["boxes_out"], rtol=1e-6)
    boxes, scores, labels = golden["top(conf .3)"]
    top = demo._post_process_fixed_thresh(predictions)
    np.testing.assert_allclose(top.bbox, boxes, rtol=1e-6)
    np.testing.assert_allclose(top.get_field("scores"), scores)
    assert top.get_field("labels").tolist() == labels
    boxes, scores = golden["post_process(.4)"]
    top = demo._post_process(predictions, 0.4)
    np.testing.assert_allclose(top.bbox, boxes, rtol=1e-6)
    np.testing.assert_allclose(top.get_field("scores"), scores)


@pytest.mark.parametrize(
    ("text", "custom", "entities", "spans"),
    [
        (["person", "traffic light"], None, ["person", "traffic light"], [[(0, 6)], [(9, 22)]]),
        ("a red dog", [{"span": "red dog"}, {"char_bounds": [2, 5]}], ["red dog", "red"], [[(2, 9)], [(2, 5)]]),
        ("that hat, two cats", [{"span": "hat"}, {"span": "cat"}], ["hat", "cat"], [[(5, 8)], [(14, 17)]]),
        ("heads on top of the shelf", None, ["heads", "top", "the shelf"], [[(0, 5)], [(9, 12)], [(16, 25)]]),
    ],
)  # fmt: skip
def test_entities_are_set_in_all_forms(make_demo, picture, text, custom, entities, spans):
    demo = make_demo()
    image, predictions = demo.run_on_web_image(picture, text, 0.3, custom)
    assert demo.entities == entities and demo.spans == spans
    assert image.shape == picture.shape and (image != picture).any()
    assert [record["phrase"] for record in demo.describe(predictions)] == [entities[1], entities[0]]
    assert demo.describe(predictions)[0]["spans"] == spans[1]


def test_seed_example(make_demo, picture):
    demo = make_demo(min_image_size=800)
    demo.compute_prediction(np.zeros((480, 640, 3), np.uint8), "bobble heads on top of the shelf")
    assert demo.model.images.image_sizes == [(800, 1066)]
    assert demo.model.positive_map == {1: [1, 2, 3], 2: [5], 3: [7, 8]}
    ids = demo.tokenizer("bobble heads on top of the shelf")["input_ids"]
    assert ids == [101, 3960, 3468, 4641, 2006, 2327, 1997, 1996, 11142, 102]


def test_labels_and_entities_stay_aligned_when_a_phrase_repeats(make_demo):
    demo = make_demo()
    demo.run_ner("A car and a scarf near a car")
    assert demo.entities == ["a car", "a scarf", "a car"]
    assert demo.spans == [[(0, 5)], [(10, 17)], [(23, 28)]]


def test_custom_entity_is_text_not_a_pattern_and_keeps_its_label(make_demo, picture, caplog):
    demo = make_demo()
    custom = [{"span": "cat (grey)"}, {"span": "zebra"}, {"span": "c.t"}, {"span": "dog"}]
    demo.compute_prediction(picture, "a cat (grey) and a dog", custom)
    assert demo.entities == ["cat (grey)", "zebra", "c.t", "dog"]
    assert sorted(demo.model.positive_map) == [1, 4]
    assert "zebra" in caplog.text and "c.t" in caplog.text
    with pytest.raises(ValueError, match="char_bounds .4, 99."):
        demo.compute_prediction(picture, "a cat", [{"char_bounds": (4, 99)}])
    with pytest.raises(ValueError, match="'span' or 'char_bounds'"):
        demo.compute_prediction(picture, "a cat", [{"text": "cat"}])


def test_phrases_past_the_token_limit_are_named(make_demo, picture, caplog):
    demo = make_demo()
    demo.compute_prediction(picture, ["dog"] * 150)
    assert len(demo.model.positive_map) < 150
    assert "256 tokens" in caplog.text


@pytest.mark.parametrize("text", ["", "   ", []])
def test_empty_text(make_demo, picture, text):
    with pytest.raises(ValueError, match="text is empty"):
        make_demo().compute_prediction(picture, text)


def test_caption_without_noun_phrase_warns(make_demo, picture, caplog):
    demo = make_demo()
    demo.compute_prediction(picture, "of and to")
    assert demo.model.positive_map == {} and "no noun phrase" in caplog.text


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3)), None]
)
def test_unusable_picture(make_demo, image):
    with pytest.raises(ValueError, match="the picture must"):
        make_demo().compute_prediction(image, "a dog")


@pytest.mark.parametrize(
    ("confidence", "fixed", "given"),
    [
        (0, [0.9, 0.5, 0.2], [0.9, 0.5]),
        (0.6, [0.9], [0.9, 0.5]),
        ([0.6], [0.9], [0.9, 0.5]),
        ([0.1, 0.95], [0.5, 0.2], [0.5, 0.2]),
    ],
)
def test_thresholds(make_demo, picture, confidence, fixed, given):
    demo = make_demo(confidence_threshold=confidence)
    predictions = demo.compute_prediction(picture, ["a", "b"])
    np.testing.assert_allclose(demo.inference(picture, ["a", "b"]).get_field("scores"), fixed)
    np.testing.assert_allclose(demo._post_process(predictions, 0.4).get_field("scores"), given)


def test_too_few_thresholds(make_demo, picture):
    demo = make_demo(confidence_threshold=[0.1, 0.2])
    predictions = demo.compute_prediction(picture, ["a", "b", "c"])
    predictions.add_field("labels", torch.tensor([1, 2, 3]))
    with pytest.raises(ValueError, match="2 values, but there is a label 3"):
        demo._post_process_fixed_thresh(predictions)


def test_colour_rule(make_demo, device):
    demo = make_demo()
    colors = demo.compute_colors_for_labels(torch.tensor([1, 2, 3], device=device))
    assert colors.tolist() == [[1, 127, 31], [31, 112, 196], [61, 97, 106]]
    assert make_demo(color=90).compute_colors_for_labels(torch.tensor([5])).tolist() == [[90, 90, 90]]
    assert make_demo(color=(1, 2, 3)).compute_colors_for_labels(torch.tensor([1])).tolist() == [[1, 2, 3]]


def test_boxes_are_blended_in_their_colour(make_demo):
    demo = make_demo()
    blank = np.zeros((427, 640, 3), np.uint8)
    found = PLANTED[torch.tensor([1])]
    assert tuple(demo.overlay_boxes(blank, found, 1.0)[150, 5]) == (31, 112, 196)
    assert tuple(demo.overlay_boxes(blank, found, 0.5)[150, 5]) == (16, 56, 98)
    assert not blank.any()


def test_drawing_given_predictions_in_grey(make_demo):
    demo = make_demo()
    image, top = demo.visualize_with_predictions(np.zeros((427, 640, 3), np.uint8), PLANTED, 0.4, alpha=1.0, color=200)
    assert len(top) == 2 and demo.color == 200
    assert set(np.unique(image[100:250, 5])) == {200}  # the left side of the large box


@pytest.mark.parametrize("entities", [[], ["猫", "🐱 emoji_name (x)"]])
def test_names_never_crash(make_demo, entities):
    demo = make_demo()
    demo.entities = entities
    many = BoxList(torch.rand(60, 4) * 400, (640, 427))
    many.add_field("scores", torch.rand(60))
    many.add_field("labels", torch.randint(1, 9, (60,)))
    blank = np.zeros((427, 640, 3), np.uint8)
    first = demo.overlay_entity_names(blank, many)
    assert first.any() and (first == demo.overlay_entity_names(blank, many)).all()


def test_rgb_models_get_rgb(make_demo):
    demo = make_demo(min_image_size=None)
    demo.cfg.INPUT.TO_BGR255 = False
    demo.cfg.INPUT.PIXEL_MEAN, demo.cfg.INPUT.PIXEL_STD = [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]
    demo.transforms = demo.build_transform()
    demo.compute_prediction(np.full((32, 32, 3), (255, 0, 0), np.uint8), ["a"])  # blue
    assert demo.model.images.tensors[0, :, 0, 0].tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(("size", "shape"), [(None, (3, 427, 640)), (320, (3, 320, 479))])
def test_pictures_become_tensors_as_classes_built_on_this_one_make_them(make_demo, picture, size, shape):
    demo = make_demo(min_image_size=size)
    tensor = demo.transforms(picture)
    assert isinstance(tensor, torch.Tensor) and tensor.shape == shape
    demo.compute_prediction(picture, ["a"])
    assert torch.equal(demo.model.images.tensors[0, :, : shape[1], : shape[2]], tensor)


def test_scores_stand_at_the_left_of_their_boxes(make_demo):
    blank = np.zeros((320, 479, 3), np.uint8)
    drawn = make_demo().overlay_scores(blank, PLANTED[torch.tensor([0])])
    rows, columns = drawn.any(-1).nonzero()
    assert not blank.any() and rows.max() <= 40 and columns.min() >= 10  # the middle of the side from 20 to 60 at 10
    assert set(drawn.max(0).max(0).tolist()) == {255}


def test_masks_and_missing_model_are_refused(make_demo, picture):
    with pytest.raises(NotImplementedError, match="show_mask_heatmaps"):
        make_demo(show_mask_heatmaps=True)
    demo = make_demo()
    demo.model = None
    with pytest.raises(ValueError, match="no model"):
        demo.inference(picture, "a dog")
    with pytest.raises(NotImplementedError, match="GLIPDemo"):
        COCODemo(default_config())


def test_historical_names_of_the_module():
    assert predictor_glip.find_noun_phrases("a man on a horse") == ["a man", "a horse"]
    assert predictor_glip.remove_punctuation("dog (puppy)") == "dog puppy"
    weights = torch.tensor([[0.0, 0.5, 0.5], [0.0, 0.0, 0.0]])
    assert predictor_glip.create_positive_map_label_to_token_from_positive_map(weights, plus=1) == {1: [1, 2], 2: []}
    assert predictor_glip.to_image_list(torch.zeros(1, 3, 8, 8)).image_sizes == [(8, 8)]
