"""Anchors as the notes print them (rows 39, 83, 88, 89, 90)."""

import pytest
import torch

from maskrcnn_benchmark.modeling.anchors import AnchorGenerator
from maskrcnn_benchmark.structures.image_list import ImageList, to_image_list

STRIDES = (8, 16, 32, 64, 128)


@pytest.fixture
def generator() -> AnchorGenerator:
    """The anchors of GLIP: one square per location, eight strides wide."""
    return AnchorGenerator([(8 * stride,) for stride in STRIDES], (1.0,), STRIDES)


def feature_maps(height: int, width: int) -> list[torch.Tensor]:
    """Empty maps of a batch of one, each half the size of the one before, rounded up."""
    maps = [torch.empty(1, 1, height, width, device="meta")]
    while len(maps) < len(STRIDES):
        maps.append(torch.empty(1, 1, -(-maps[-1].shape[-2] // 2), -(-maps[-1].shape[-1] // 2)))
    return [torch.empty(level.shape) for level in maps]


@pytest.mark.parametrize(
    ("size_hw", "level_hw", "numbers"),
    [
        ((480, 535), (60, 68), [4080, 1020, 255, 72, 20]),  # row 39: padded to 480x544
        ((800, 1333), (100, 168), [16800, 4200, 1050, 273, 77]),  # row 83: padded to 800x1344
        ((800, 1088), (100, 136), [13600, 3400, 850, 221, 63]),  # row 42: 18134 in all
    ],
)
def test_number_of_anchors_per_level(generator, size_hw, level_hw, numbers):
    images = to_image_list([torch.zeros(3, *size_hw)], size_divisible=32)
    assert images.tensors.shape[-2:] == (8 * level_hw[0], 8 * level_hw[1])
    ((*levels,),) = generator(images, feature_maps(*level_hw))
    assert [len(level) for level in levels] == numbers
    assert all(level.size == (size_hw[1], size_hw[0]) for level in levels)  # width, height, without the padding


def test_first_level(generator):
    """Row 88: the cell (0, 0, 7, 7) has its centre at 3.5, and a side of 64 makes (-28, -28, 35, 35)."""
    (first, *_) = generator.grid_anchors([(level.shape[-2], level.shape[-1]) for level in feature_maps(80, 108)])
    assert len(first) == 8640
    torch.testing.assert_close(first[0], torch.tensor([-28.0, -28.0, 35.0, 35.0]), rtol=0, atol=0)
    shifts = first - first[0]
    assert shifts[:108, 0].tolist() == list(range(0, 857, 8)) and not shifts[:108, 1].any()
    assert shifts[::108, 1].tolist() == list(range(0, 633, 8)) and not shifts[::108, 0].any()


def test_last_level(generator):
    """Row 89: the side of 1024 around the cell (0, 0, 127, 127), moved by 128 along x."""
    (*_, last) = generator.grid_anchors([(level.shape[-2], level.shape[-1]) for level in feature_maps(80, 108)])
    expected = [[-448.0 + x, -448.0, 575.0 + x, 575.0] for x in (0, 128, 256, 384, 512, 640, 768)]
    assert last.shape == (5 * 7, 4) and last[:7].tolist() == expected


@pytest.mark.parametrize("as_image_list", [True, False])
def test_images_may_be_a_list_or_a_tensor(generator, as_image_list):
    """Row 90: the grid of a 736x1120 batch, rounded up from level to level."""
    maps = feature_maps(92, 140)
    assert [tuple(level.shape[-2:]) for level in maps] == [(92, 140), (46, 70), (23, 35), (12, 18), (6, 9)]
    tensor = torch.zeros(2, 3, 736, 1120)
    images = ImageList(tensor, [(736, 1120), (736, 1120)]) if as_image_list else tensor
    anchors = generator(images, maps)
    assert [[len(level) for level in image] for image in anchors] == [[92 * 140, 46 * 70, 23 * 35, 12 * 18, 6 * 9]] * 2
    assert all(level.size == (1120, 736) and level.has_field("visibility") for image in anchors for level in image)
