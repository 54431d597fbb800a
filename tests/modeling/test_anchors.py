import logging

import numpy as np
import pytest
import torch
from golden_tools import TOLERANCES, assert_golden, golden_tensor, load_golden

from maskrcnn_benchmark.config import cfg
from maskrcnn_benchmark.modeling.anchors import AnchorGenerator, cell_anchors
from maskrcnn_benchmark.modeling.rpn.anchor_generator import make_anchor_generator, make_anchor_generator_complex
from maskrcnn_benchmark.structures.image_list import ImageList

GLIP_SIZES = ((64,), (128,), (256,), (512,), (1024,))


@pytest.mark.parity
@pytest.mark.parametrize("size", ["800x1088", "333x500", "97x61", "32x32"])
def test_grids_match_the_recording(size):
    npz, generator = load_golden("ops.npz"), AnchorGenerator(GLIP_SIZES)
    height, width = map(int, size.split("x"))
    names = [f"anchors.{size}.p{level}" for level in range(3, 8)]
    maps = [torch.zeros(1, 1, *npz[f"{name}.hw"].tolist()) for name in names]
    (levels,) = generator(torch.zeros(1, 3, height, width), maps)
    for name, anchors in zip(names, levels, strict=True):
        assert len(anchors) == npz[f"{name}.count"] and anchors.size == (width, height)
        first, last = golden_tensor(npz, f"{name}.first"), golden_tensor(npz, f"{name}.last")
        assert_golden(anchors.bbox[: len(first)], npz, f"{name}.first", TOLERANCES["exact"])
        assert_golden(anchors.bbox[-len(last) :], npz, f"{name}.last", TOLERANCES["exact"])
        assert_golden(anchors.bbox.double().sum(0), npz, f"{name}.sum", TOLERANCES["exact"])
        assert np.array_equal(np.packbits(anchors.get_field("visibility").numpy()), npz[f"{name}.visible"])


@pytest.mark.parity
def test_cell_anchors_match_the_recording():
    npz, generator = load_golden("ops.npz"), AnchorGenerator(GLIP_SIZES)
    for level in range(5):
        assert_golden(generator.cell_anchors[level], npz, f"anchors.cell.{level}.box", TOLERANCES["exact"])
        assert torch.equal(generator.state_dict()[f"cell_anchors.{level}"], generator.cell_anchors[level])


def test_numbers_of_anchors_at_full_size():
    feature_sizes = [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]
    grids = AnchorGenerator(GLIP_SIZES).grid_anchors(feature_sizes)
    assert [len(grid) for grid in grids] == [16800, 4200, 1050, 273, 77]


def test_ratios_are_outermost_and_rounded():
    anchors = cell_anchors(16, (32, 64), (0.5, 1.0, 2.0))
    sides = anchors[:, 2:] - anchors[:, :2] + 1
    assert sides.tolist() == [[46, 24], [92, 48], [32, 32], [64, 64], [22, 44], [44, 88]]
    torch.testing.assert_close((anchors[:, :2] + anchors[:, 2:]) / 2, torch.full((6, 2), 7.5))


def test_order_is_row_column_anchor():
    generator = AnchorGenerator([(8, 16)], (1.0,), (8,))
    (grid,) = generator.grid_anchors([(2, 3)])
    centers = (grid[:, :2] + grid[:, 2:]) / 2
    assert centers[::2].tolist() == centers[1::2].tolist()
    assert centers[::2].tolist() == [[3.5, 3.5], [11.5, 3.5], [19.5, 3.5], [3.5, 11.5], [11.5, 11.5], [19.5, 11.5]]
    assert generator.num_anchors_per_location() == [2]


def test_every_image_has_its_own_size_and_visibility():
    generator = AnchorGenerator([(8,)], (1.0,), (8,))
    images = ImageList(torch.zeros(2, 3, 16, 24), [(16, 24), (8, 9)])
    first, second = (levels[0] for levels in generator(images, [torch.zeros(2, 4, 2, 3)]))
    assert first.size == (24, 16) and second.size == (9, 8)
    assert first.get_field("visibility").all()
    assert second.get_field("visibility").tolist() == [True] + [False] * 5
    far = AnchorGenerator([(8,)], (1.0,), (8,), straddle_thresh=-1)
    assert far(images, [torch.zeros(2, 4, 2, 3)])[1][0].get_field("visibility").all()


def test_grids_are_reused_but_follow_the_size():
    generator = AnchorGenerator([(8,)], (1.0,), (8,))
    (first,) = generator.grid_anchors([(2, 3)])
    assert generator.grid_anchors([(2, 3)])[0] is first
    for side in range(1, 40):
        assert len(generator.grid_anchors([(side, side)])[0]) == side * side
    torch.testing.assert_close(generator.grid_anchors([(2, 3)])[0], first)


def test_a_checkpoint_does_not_change_the_anchors(caplog):
    generator = AnchorGenerator([(8,)], (1.0,), (8,))
    before = generator.state_dict()["cell_anchors.0"].clone()
    generator.load_state_dict({"cell_anchors.0": before + 1e-7})
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        generator.load_state_dict({"cell_anchors.0": before * 2})
    assert "cell_anchors.0: the anchors of the checkpoint differ" in caplog.text
    assert torch.equal(generator.cell_anchors[0], before)
    with pytest.raises(RuntimeError, match="Missing"):
        generator.load_state_dict({})
    with pytest.raises(RuntimeError, match="Unexpected.*cell_anchors.7"):
        generator.load_state_dict({"cell_anchors.0": before, "cell_anchors.7": before})


def test_sizes_of_an_octave():
    config = cfg.clone()
    config.merge_from_list(["MODEL.RPN.USE_FPN", True, "MODEL.RPN.ANCHOR_SIZES", (64, 128)])
    config.merge_from_list(["MODEL.RPN.ANCHOR_STRIDE", (8, 16), "MODEL.RPN.ASPECT_RATIOS", (1.0,)])
    config.merge_from_list(["MODEL.RPN.SCALES_PER_OCTAVE", 2])
    assert make_anchor_generator(config).num_anchors_per_location() == [1, 1]
    generator = make_anchor_generator_complex(config)
    assert generator.num_anchors_per_location() == [2, 2]
    sides = generator.cell_anchors[0][:, 2] - generator.cell_anchors[0][:, 0] + 1
    torch.testing.assert_close(sides, torch.tensor([64.0, 64 * 2**0.5]))
    config.merge_from_list(["MODEL.RPN.ANCHOR_STRIDE", (8,)])
    with pytest.raises(ValueError, match="ANCHOR_SIZES"):
        make_anchor_generator_complex(config)
    config.merge_from_list(["MODEL.RPN.USE_FPN", False])
    assert make_anchor_generator(config).num_anchors_per_location() == [2]


def test_a_picture_without_a_batch_has_one_list_of_anchors():
    generator = AnchorGenerator([(8,)], (1.0,), (8,))
    ((level,),) = generator(torch.zeros(3, 16, 24), [torch.zeros(1, 4, 2, 3)])
    assert len(level) == 6 and level.size == (24, 16)


def test_wrong_numbers_of_levels_are_named():
    with pytest.raises(ValueError, match="1 levels.*2 strides"):
        AnchorGenerator([(8,)], (1.0,), (8, 16))
    with pytest.raises(ValueError, match="2 feature maps for 1 levels"):
        AnchorGenerator([(8,)], (1.0,), (8,)).grid_anchors([(1, 1), (1, 1)])
