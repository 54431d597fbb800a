"""Resize, flip and normalisation: sizes of the specification, boxes that follow the pixels, parity of the tensor."""

import random

import numpy as np
import pytest
import torch
from golden_tools import TOLERANCES, assert_golden, golden_path, load_golden
from PIL import Image
from torchvision.transforms import functional

from maskrcnn_benchmark.config import default_config
from maskrcnn_benchmark.data.transforms import Normalize, RandomHorizontalFlip, Resize, ToTensor, build_transforms
from maskrcnn_benchmark.structures.bounding_box import BoxList

BGR_MEAN, BGR_STD = [103.530, 116.280, 123.675], [57.375, 57.120, 58.395]


def node(min_train=800, mult=(), flip=0.5, to_bgr=True, format="", fix_res=False):
    cfg = default_config()
    cfg.INPUT.MIN_SIZE_TRAIN = min_train
    cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD = BGR_MEAN, BGR_STD
    cfg.INPUT.TO_BGR255, cfg.INPUT.FORMAT, cfg.INPUT.FIX_RES = to_bgr, format, fix_res
    cfg.AUGMENT.MULT_MIN_SIZE_TRAIN, cfg.AUGMENT.FLIP_PROB_TRAIN = mult, flip
    return cfg


@pytest.mark.parametrize(
    ("size", "min_size", "expected"),
    [
        ((640, 480), 800, (800, 1066)),
        ((480, 640), 800, (1066, 800)),
        ((1000, 300), 800, (400, 1333)),
        ((500, 375), 800, (800, 1066)),
        ((427, 640), 800, (1199, 800)),
        ((1024, 683), 800, (800, 1199)),
        ((1067, 800), 800, (800, 1067)),
        ((1333, 800), 480, (480, 799)),
        ((1024, 683), 480, (480, 719)),
    ],
)
def test_resize_table(size, min_size, expected):
    assert Resize(min_size, 1333).get_size(size) == expected
    resized, _ = Resize(min_size, 1333)(Image.new("RGB", size))
    assert resized.size == expected[::-1]


def test_fixed_resolution_distorts():
    assert Resize(800, 1333, restrict=True).get_size((640, 480)) == (800, 1333)


def test_resize_draws_one_of_the_sizes():
    random.seed(0)
    drawn = {Resize((480, 560), 1333).get_size((640, 480)) for _ in range(20)}
    assert drawn == {(480, 640), (560, 746)}


def test_resize_moves_boxes_with_the_pixels():
    target = BoxList([[10.0, 20.0, 39.0, 59.0]], (100, 80))
    image, target = Resize(160, 1333)(Image.new("RGB", (100, 80)), target)
    assert image.size == target.size == (200, 160)
    assert target.bbox.tolist() == [[20.0, 40.0, 78.0, 118.0]]


def test_flip_moves_boxes_with_the_pixels():
    image = Image.new("RGB", (100, 80))
    image.paste((255, 0, 0), (10, 20, 40, 60))
    flipped, target = RandomHorizontalFlip(1.0)(image, BoxList([[10.0, 20.0, 39.0, 59.0]], (100, 80)))
    x1, y1, x2, y2 = (int(value) for value in target.bbox[0])
    assert (x1, y1, x2, y2) == (60, 20, 89, 59)
    red = np.asarray(flipped)[..., 0] == 255
    assert red[y1 : y2 + 1, x1 : x2 + 1].all() and red.sum() == 30 * 40


def test_flip_leaves_other_targets_alone():
    record = {"boxes": [1, 2]}
    assert RandomHorizontalFlip(1.0)(Image.new("RGB", (4, 4)), record)[1] is record
    assert RandomHorizontalFlip(1.0)(Image.new("RGB", (4, 4)))[1] is None


def test_normalize_formats():
    image = torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1)
    assert Normalize([0, 0, 0], [1, 1, 1], "bgr255")(image)[0].flatten().tolist() == [255.0, 127.5, 0.0]
    assert Normalize([0, 0, 0], [1, 1, 1], "rgb")(image)[0].flatten().tolist() == [0.0, 0.5, 1.0]
    assert image.flatten().tolist() == [0.0, 0.5, 1.0], "the input was changed"
    with pytest.raises(ValueError, match="zero"):
        Normalize([0, 0, 0], [1, 0, 1])


def test_build_transforms_reads_the_configuration():
    resize, flip, _, normalize = build_transforms(node(mult=(480, 800)), is_train=True).transforms
    assert (resize.min_size, flip.prob, normalize.format) == ((480, 800), 0.5, "bgr255")
    resize, flip, _, normalize = build_transforms(node(mult=(480,), to_bgr=False), is_train=False).transforms
    assert (resize.min_size, flip.prob, normalize.format) == ((800,), 0.0, "rgb")
    assert build_transforms(node(format="rgb255"), is_train=True).transforms[3].format == "rgb255"


@pytest.mark.parity
def test_transform_output_of_a_picture():
    with Image.open(golden_path("img_a.png")) as image:
        tensor, _ = build_transforms(node(), is_train=False)(image.convert("RGB"), None)
    golden = load_golden("forward_glip_Swin_T_O365_GoldG.npz")
    assert_golden(tensor, golden, "transform.out", TOLERANCES["transform"])


def test_to_tensor_is_rgb_between_zero_and_one():
    tensor, _ = ToTensor()(Image.new("RGB", (2, 3), (255, 0, 51)))
    assert tensor.shape == (3, 3, 2)
    assert tensor[:, 0, 0].tolist() == pytest.approx([1.0, 0.0, 0.2])


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_to_tensor_and_normalize_have_the_numbers_of_the_plain_operations(mode):
    """Bit for bit: torchvision's conversion, then reordered channels, scale, difference, quotient."""
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    tensor, _ = ToTensor()(image)
    assert torch.equal(tensor, functional.to_tensor(image)) and tensor.is_contiguous()
    if mode != "RGB":
        return
    mean, std = [103.53, 116.28, 123.675], [57.375, 57.12, 58.395]
    centre, width = (torch.tensor(values)[:, None, None] for values in (mean, std))
    assert torch.equal(Normalize(mean, std, "bgr255")(tensor)[0], (tensor[[2, 1, 0]] * 255 - centre) / width)
    assert torch.equal(Normalize(mean, std, "rgb255")(tensor)[0], (tensor * 255 - centre) / width)
    assert torch.equal(Normalize(mean, std, "rgb")(tensor)[0], (tensor - centre) / width)
