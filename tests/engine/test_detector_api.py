"""Detector around a fake network: prompts, batches, reuse of encodings, merging and coordinates."""

import numpy as np
import pytest
import torch
from fake_detector import FakeNetwork, fake_detector, planted_score
from PIL import Image

from maskrcnn_benchmark.engine.detector_api import Caption, Detector
from maskrcnn_benchmark.engine.devices import resolve_device
from maskrcnn_benchmark.engine.image_io import ImageError
from maskrcnn_benchmark.engine.model_files import ASSETS, PUBLISHED, find_model
from maskrcnn_benchmark.structures.bounding_box import BoxList

WIDE = np.zeros((60, 120, 3), np.uint8)
TALL = np.zeros((90, 60, 3), np.uint8)


@pytest.fixture
def detector():
    return fake_detector()


def test_one_picture_and_a_list_of_classes(detector):
    (found,) = detector.predict(WIDE, ["person", "traffic light"], threshold=0.5)
    assert found.phrases == ["person", "traffic light"] and found.labels.tolist() == [1, 2]
    assert found.scores.tolist() == pytest.approx([planted_score(1), planted_score(2)])
    assert found.captions == ["person. traffic light"] * 2
    assert [found.captions[0][slice(*spans[0])] for spans in found.spans] == found.phrases
    assert found.boxes.shape == (2, 4) and len(found) == 2
    assert found.boxes[:, 2].max() <= 120 and found.boxes[:, 2].max() > 60  # pixels of the picture, not of the network
    assert detector.model.detected == [[{1: [1], 2: [3, 4]}]]


@pytest.mark.parametrize("kind", ["path", "str", "pillow", "grey"])
def test_pictures_of_every_type(detector, tmp_path, kind):
    Image.fromarray(WIDE).save(tmp_path / "a.png")
    image = {
        "path": tmp_path / "a.png",
        "str": str(tmp_path / "a.png"),
        "pillow": Image.fromarray(WIDE),
        "grey": WIDE[:, :, 0],
    }[kind]
    assert len(detector.predict(image, "dog")) == 1


@pytest.mark.parametrize(
    ("prompt", "captions", "phrases"),
    [
        ("person. traffic light", ["person. traffic light"], ["person", "traffic light"]),
        ("person", ["person"], ["person"]),
        ("a man on a horse", ["a man on a horse"], ["a man", "a horse"]),
        (Caption("A man rides. A dog runs."), ["A man rides. A dog runs."], ["a man", "a dog"]),
        (Caption("a man on a horse", phrases=("horse",)), ["a man on a horse"], ["horse"]),
        (["猫", "traffic light"], ["猫. traffic light"], ["猫", "traffic light"]),
    ],
)
def test_what_a_prompt_means(detector, prompt, captions, phrases):
    prompts = detector.prepare(prompt)
    assert [part.caption for part in prompts] == captions
    assert list(prompts[0].phrases.values()) == phrases
    assert detector.prepare(prompts) == prompts


@pytest.mark.parametrize("prompt", ["", " ", ". . .", [], [""], ["  ", "\t"], Caption(""), Caption(" . ,"), [3], None])
def test_empty_prompts(detector, prompt):
    with pytest.raises((ValueError, TypeError)):
        detector.predict(WIDE, prompt)
    assert not detector.model.encoded_images


def test_a_prompt_for_each_picture_or_one_for_all(detector):
    for prompts, expected in (
        ("person. dog", [["person", "dog"]] * 2),
        ([["person", "dog"]], [["person", "dog"]] * 2),
        (["person. dog", "cat"], [["person", "dog"], ["cat"]]),
        ([["person"], Caption("a red cup")], [["person"], ["a red cup"]]),
    ):
        found = detector.predict([WIDE, TALL], prompts)
        assert [part.phrases for part in found] == expected
    with pytest.raises(ValueError, match="3 prompts for 2 pictures"):
        detector.predict([WIDE, TALL], ["person", "dog", "cat"])
    assert detector.predict([], "dog") == []


def test_a_long_prompt_is_split_and_the_picture_is_encoded_once(detector):
    names = [f"strange{i} object{i}" for i in range(200)]
    (found,) = detector.predict(WIDE, names, threshold=0.0)
    assert len(detector.model.encoded_texts[0]) >= 5 and len(detector.model.encoded_images) == 1
    assert sorted(found.labels.tolist()) == list(range(1, 201))
    assert [names[label - 1] for label in found.labels.tolist()] == found.phrases
    assert (found.scores.diff() <= 0).all()
    for caption, spans, phrase in zip(found.captions, found.spans, found.phrases, strict=True):
        assert caption[slice(*spans[0])] == phrase


def test_a_shared_caption_is_encoded_once_for_all_batches(detector):
    detector.predict([WIDE, TALL, WIDE], "person. dog", batch_size=2)
    assert detector.model.encoded_texts == [["person. dog"]]
    assert [len(sizes) for sizes in detector.model.encoded_images] == [2, 1]


def test_batches_keep_the_order_of_the_pictures(detector):
    long = [f"strange{i} object{i}" for i in range(100)]
    images = [WIDE, TALL, WIDE, TALL, TALL]
    prompts = [["one"], long, ["two"], ["three"], long]
    batched = detector.predict(images, prompts, batch_size=3)
    assert [part.phrases[0] for part in batched] == ["one", long[0], "two", "three", long[0]]
    for alone, part in zip(
        [detector.predict(i, p)[0] for i, p in zip(images, prompts, strict=True)], batched, strict=True
    ):
        assert part.phrases == alone.phrases
        torch.testing.assert_close(part.boxes, alone.boxes)


def test_threshold_and_batch_size(detector):
    (found,) = detector.predict(WIDE, ["a", "b", "c"], threshold=0.75)
    assert found.phrases == ["a", "b"]
    (found,) = detector.predict(WIDE, ["a"], threshold=0.95)
    assert len(found) == 0 and found.boxes.shape == (0, 4) and found.phrases == []
    with pytest.raises(ValueError, match="batch_size=0"):
        detector.predict(WIDE, "dog", batch_size=0)


def test_boxes_of_one_label_from_two_captions_are_merged(detector, monkeypatch):
    long = Caption("the dog " + "sees a thing and " * 100, phrases=None)
    prompts = detector.prepare(long)
    assert len(prompts) > 1

    def same_box(size, label_to_tokens):
        found = BoxList(torch.tensor([[1.0, 1, 20, 20]]), (size[1], size[0]))
        found.add_field("labels", torch.tensor([min(label_to_tokens)]))
        found.add_field("scores", torch.tensor([0.9 - 0.001 * min(label_to_tokens)]))
        return found

    monkeypatch.setattr(FakeNetwork, "_found", staticmethod(same_box))
    (found,) = detector.predict(WIDE, prompts)
    assert len(found) == len(prompts)  # labels differ: nothing is merged
    twins = (prompts[0], prompts[0])
    (found,) = detector.predict(WIDE, twins)
    assert len(found) == 1


def test_an_encoder_that_reads_the_text_runs_for_every_caption():
    detector = fake_detector(reads_text=True)
    detector.predict(WIDE, [f"strange{i} object{i}" for i in range(100)])
    assert len(detector.model.encoded_images) == len(detector.model.detected) > 2


def test_extreme_aspect_ratios(detector):
    for shape in ((1, 1, 3), (1, 3000, 3), (3000, 1, 3)):
        assert len(detector.predict(np.zeros(shape, np.uint8), "dog")) == 1


def test_bad_pictures_name_themselves(detector, tmp_path):
    with pytest.raises(ImageError, match="gone.png"):
        detector.predict(tmp_path / "gone.png", "dog")
    with pytest.raises(ImageError, match="zero size"):
        detector.predict(np.zeros((0, 4, 3), np.uint8), "dog")


@pytest.mark.parametrize("name", ["cuda:99", "banana", "meta", "cpu:7"])
def test_devices_that_do_not_exist(name):
    with pytest.raises(ValueError, match=f"device '{name}'.*this machine has cpu"):
        resolve_device(name)
    with pytest.raises(ValueError, match=name):
        Detector.from_pretrained("glip_nano", device=name)


def test_default_device_exists():
    assert resolve_device(None).type in ("cpu", "cuda")
    assert resolve_device("cpu") == resolve_device(torch.device("cpu"))


def test_unknown_models_are_answered_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="'glip_huge' is neither a folder nor one of glip_nano, glip_a_tiny_o365"):
        find_model("glip_huge")
    (tmp_path / "weights.pth").touch()
    with pytest.raises(ValueError, match="weights.pth' is a file"):
        find_model(tmp_path / "weights.pth")
    with pytest.raises(FileNotFoundError, match="holds no config.yaml"):
        find_model(tmp_path)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(FileNotFoundError, match="none of the weight files"):
        find_model(tmp_path)


def test_published_models_have_the_configuration_of_the_repository():
    for name, config in PUBLISHED.items():
        files = find_model(name + ".pth")
        assert files.name == name and files.config == ASSETS / "configs" / config
        original = ASSETS.parents[1] / "configs" / "pretrain" / config
        assert files.config.read_bytes() == original.read_bytes()
