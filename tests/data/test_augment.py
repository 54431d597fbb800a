"""Crops, vertical flips and colours: off as in the original, and boxes, phrases and maps that follow when on."""

import logging
import random

import numpy as np
import pytest
import torch
from data_files import write_coco_toy, write_grounding_toy
from PIL import Image

from maskrcnn_benchmark.config import default_config
from maskrcnn_benchmark.data.datasets import COCODataset, CocoGrounding, FlickrDataset
from maskrcnn_benchmark.data.transforms import (
    ColorJitter,
    Compose,
    RandomCrop,
    RandomHorizontalFlip,
    RandomVerticalFlip,
    ToTensor,
    build_transforms,
)
from maskrcnn_benchmark.data.transforms.augment import KEPT_BOXES, crop_boxes
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.text.tokenizer import build_tokenizer

SIZE = (100, 80)


def picture_with(box: list[int]) -> Image.Image:
    """A black picture, red where the box (xyxy, inclusive) is."""
    x1, y1, x2, y2 = box
    image = Image.new("RGB", SIZE)
    image.paste((255, 0, 0), (x1, y1, x2 + 1, y2 + 1))
    return image


def red_box(image: Image.Image) -> list[int]:
    """The red pixels' extent (xyxy, inclusive)."""
    y, x = np.nonzero(np.asarray(image)[..., 0] == 255)
    return [x.min(), y.min(), x.max(), y.max()]


class FixedCrop(RandomCrop):
    """Always the same region."""

    def __init__(self, region):
        super().__init__(1.0, (0.0,))
        self.region = region

    def draw_region(self, width, height):
        return self.region


def names(transforms) -> list[str]:
    return [type(transform).__name__ for transform in transforms.transforms]


def test_keys_are_ignored_as_in_the_original(caplog):
    plain = ["Resize", "RandomHorizontalFlip", "ToTensor", "Normalize"]
    cfg = default_config()
    with caplog.at_level(logging.WARNING):
        assert names(build_transforms(cfg, is_train=True)) == plain and not caplog.records
        cfg.AUGMENT.BRIGHTNESS, cfg.AUGMENT.CROP_MIN_IOUS = 0.4, (0.5,)
        assert names(build_transforms(cfg, is_train=True)) == plain
    assert "AUGMENT.BRIGHTNESS, AUGMENT.CROP_MIN_IOUS without effect: set AUGMENT.EXTENDED" in caplog.text


def test_extended_pipeline_in_training_only():
    cfg = default_config()
    cfg.AUGMENT.EXTENDED = True
    assert names(build_transforms(cfg, is_train=True))[0] == "RandomCrop", "CROP_PROB is 0.5 by default"
    cfg.AUGMENT.CROP_PROB, cfg.AUGMENT.VERTICAL_FLIP_PROB_TRAIN, cfg.AUGMENT.HUE = 0.0, 0.5, 0.1
    flips = ["Resize", "RandomHorizontalFlip", "RandomVerticalFlip", "ColorJitter", "ToTensor", "Normalize"]
    assert names(build_transforms(cfg, is_train=True)) == flips
    assert len(names(build_transforms(cfg, is_train=False))) == 4


@pytest.mark.parametrize(
    ("key", "value", "is_train", "message"),
    [
        ("INPUT.MIN_SIZE_TRAIN", 0, True, "INPUT.MIN_SIZE_TRAIN and INPUT.MAX_SIZE_TRAIN: min_size=0"),
        ("INPUT.MAX_SIZE_TEST", 0, False, "INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST: max_size=0"),
        ("AUGMENT.MULT_MIN_SIZE_TRAIN", (64, -1), True, r"AUGMENT.MULT_MIN_SIZE_TRAIN and .* min_size=\(64, -1\)"),
        ("AUGMENT.FLIP_PROB_TRAIN", 2.0, True, "AUGMENT.FLIP_PROB_TRAIN: prob=2.0 is not a probability"),
        ("AUGMENT.VERTICAL_FLIP_PROB_TRAIN", -1.0, True, "AUGMENT.VERTICAL_FLIP_PROB_TRAIN: prob=-1.0 is not"),
        ("AUGMENT.CROP_PROB", 1.5, True, "AUGMENT.CROP_PROB, .*: prob=1.5 is not a probability"),
        ("AUGMENT.HUE", 0.9, True, "AUGMENT: hue=0.9"),
        ("INPUT.PIXEL_STD", [0.0, 1.0, 1.0], False, "INPUT.PIXEL_MEAN and PIXEL_STD: std="),
    ],
)
def test_mistakes_are_named_by_their_key(key, value, is_train, message):
    cfg = default_config()
    cfg.merge_from_list(["AUGMENT.EXTENDED", True, key, value])
    with pytest.raises(ValueError, match=message):
        build_transforms(cfg, is_train)


def test_vertical_flip_moves_boxes_with_the_pixels():
    image, target = RandomVerticalFlip(1.0)(picture_with([10, 20, 39, 49]), BoxList([[10, 20, 39, 49]], SIZE))
    assert target.bbox.tolist() == [red_box(image)] == [[10, 30, 39, 59]]
    again, target = RandomVerticalFlip(1.0)(image, target)
    assert target.bbox.tolist() == [red_box(again)] == [[10, 20, 39, 49]]


def test_crop_moves_boxes_with_the_pixels():
    random.seed(0)
    box, cropped = [30, 20, 69, 59], 0
    for _ in range(40):
        image, target = RandomCrop(1.0)(picture_with(box), BoxList([box], SIZE))
        assert target.size == image.size and target.bbox.tolist() == [red_box(image)]
        width, height = image.size
        assert width >= 30 and height >= 24 and max(width, height) <= 2 * min(width, height)
        cropped += image.size != SIZE
    assert cropped > 20


def test_boxes_without_their_centre_are_dropped():
    target = BoxList([[10, 10, 19, 19], [60, 10, 97, 49], [40, 30, 59, 59]], SIZE)
    target.add_field("labels", torch.tensor([4, 5, 6]))
    cropped = crop_boxes(target, (30, 20, 80, 60))
    assert cropped.size == (50, 40) and cropped.bbox.tolist() == [[30, 0, 49, 29], [10, 10, 29, 39]]
    assert cropped.get_field("labels").tolist() == [5, 6] and cropped.get_field(KEPT_BOXES).tolist() == [1, 2]
    assert crop_boxes(target, (0, 60, 100, 80)) is None, "no centre inside"
    assert crop_boxes(target, (30, 20, 80, 60), min_iou=0.1) is None, "the first box is not overlapped"
    assert target.bbox[1].tolist() == [60, 10, 97, 49], "the input was changed"


def test_crop_of_an_empty_picture_and_of_other_targets():
    _, target = FixedCrop((10, 10, 60, 50))(Image.new("RGB", SIZE), BoxList([], SIZE))
    assert target.size == (50, 40) and len(target) == 0
    image, target = RandomCrop(1.0)(Image.new("RGB", SIZE), {"boxes": []})
    assert image.size == SIZE and target == {"boxes": []}


def test_phrases_of_dropped_boxes_leave_the_maps(tmp_path, bert_vocabulary):
    """Boxes [10, 10, 29, 29] of "the red cup" and [50, 10, 99, 39] of "the dog"; the region holds the second."""
    transforms = Compose([FixedCrop((40, 0, 100, 60)), RandomHorizontalFlip(1.0), ToTensor()])
    tokenizer = build_tokenizer(bert_vocabulary)
    for flip_caption_aware, caption in ((False, "left"), (True, "right")):
        data = FlickrDataset(
            tmp_path, write_grounding_toy(tmp_path), transforms=transforms, tokenizer=tokenizer,
            flip_caption_aware=flip_caption_aware,
        )  # fmt: skip
        _, target, _ = data[0]
        assert target.bbox.tolist() == [[0, 10, 49, 39]] and target.get_field("boxes").tolist() == [[50, 10, 99, 39]]
        assert caption in target.get_field("caption")
        text = target.get_field("caption")
        ((span,),) = target.get_field("tokens_positive")
        assert text[slice(*span)] == "the dog"
        (row,) = target.get_field("positive_map")
        tokens = tokenizer(text).tokens()
        assert [tokens[i] for i in row.nonzero().flatten()] == ["the", "dog"]
        assert not target.has_field(KEPT_BOXES) and target.get_field("greenlight_map").shape == (256,)


def test_detection_data_can_be_cropped(tmp_path, bert_vocabulary):
    path, transforms = write_coco_toy(tmp_path), Compose([FixedCrop((20, 20, 70, 70)), ToTensor()])
    grounding = CocoGrounding(tmp_path, path, transforms, tokenizer=build_tokenizer(bert_vocabulary))
    _, target, _ = grounding[1]
    assert target.bbox.tolist() == [[0, 0, 39, 39]] and target.get_field("positive_map").shape == (1, 256)
    _, target, _ = COCODataset(path, tmp_path, True, transforms)[1]
    assert target.bbox.tolist() == [[0, 0, 39, 39]] and target.get_field("labels").tolist() == [2]


def test_colours_change_and_repeat_under_a_seed():
    image = picture_with([10, 20, 39, 49])
    jitter = ColorJitter(0.4, 0.4, 0.4, 0.2)
    torch.manual_seed(3)
    one, target = jitter(image, None)
    torch.manual_seed(3)
    other, _ = jitter(image, None)
    assert target is None and one.size == image.size
    assert np.array_equal(np.asarray(one), np.asarray(other)) and not np.array_equal(np.asarray(one), np.asarray(image))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ColorJitter(hue=0.7), r"hue=0.7 is not in \[0, 0.5\]"),
        (lambda: ColorJitter(brightness=-1), "brightness=-1"),
        (lambda: RandomCrop(1.5), "prob=1.5"),
        (lambda: RandomCrop(min_ious=()), r"min_ious=\(\)"),
        (lambda: RandomCrop(min_size=0), "min_size=0"),
        (lambda: RandomVerticalFlip(-0.1), "prob=-0.1"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
