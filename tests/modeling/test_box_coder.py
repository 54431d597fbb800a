import math

import pytest
import torch
from golden_tools import TOLERANCES, assert_golden, golden_tensor, load_golden

from maskrcnn_benchmark.modeling.box_coder import BoxCoder, CenterBoxCoder


def random_boxes(number: int) -> torch.Tensor:
    corner = torch.rand(number, 2) * 500
    return torch.cat((corner, corner + 1 + torch.rand(number, 2) * 300), dim=1)


@pytest.mark.parity
def test_center_coder_matches_the_recording():
    npz, coder = load_golden("ops.npz"), CenterBoxCoder()
    gt, anchors = golden_tensor(npz, "boxcoder.encode.gt"), golden_tensor(npz, "boxcoder.encode.anchors")
    codes = coder.encode(gt, anchors)
    assert_golden(codes, npz, "boxcoder.encode.out", TOLERANCES["ops"])
    assert_golden(coder.decode(codes, anchors), npz, "boxcoder.roundtrip.out", TOLERANCES["ops"])
    decoded = coder.decode(golden_tensor(npz, "boxcoder.decode.pred"), golden_tensor(npz, "boxcoder.decode.anchors"))
    assert_golden(decoded, npz, "boxcoder.decode.out", TOLERANCES["ops"])


@pytest.mark.parametrize("coder", [BoxCoder((10.0, 10.0, 5.0, 5.0)), CenterBoxCoder()])
def test_what_is_encoded_decodes(coder):
    torch.manual_seed(0)
    boxes, anchors = random_boxes(50), random_boxes(50)
    torch.testing.assert_close(coder.decode(coder.encode(boxes, anchors), anchors), boxes, atol=1e-3, rtol=1e-5)


def test_the_two_coders_have_other_centers():
    anchor = torch.tensor([[0.0, 0.0, 9.0, 19.0]])
    moved = torch.tensor([[1.0, 2.0, 10.0, 21.0]])
    for coder in (BoxCoder((1.0, 1.0, 1.0, 1.0)), CenterBoxCoder((1.0, 1.0, 1.0, 1.0))):
        torch.testing.assert_close(coder.encode(moved, anchor), torch.tensor([[0.1, 0.1, 0.0, 0.0]]))
    doubled = torch.tensor([[0.0, 0.0, math.log(2), math.log(2)]])
    # Twenty pixels around x = 5, and around x = 4.5; the last pixel is inclusive.
    assert BoxCoder((1.0, 1.0, 1.0, 1.0)).decode(doubled, anchor)[0, [0, 2]].tolist() == pytest.approx([-5, 14])
    assert CenterBoxCoder((1.0, 1.0, 1.0, 1.0)).decode(doubled, anchor)[0, [0, 2]].tolist() == pytest.approx([-5, 14])
    shifted = torch.tensor([[0.5, 0.0, 0.0, 0.0]])
    assert BoxCoder((1.0, 1.0, 1.0, 1.0)).decode(shifted, anchor)[0, [0, 2]].tolist() == pytest.approx([5, 14])


@pytest.mark.parametrize("coder", [BoxCoder((1.0, 1.0, 1.0, 1.0)), CenterBoxCoder((1.0, 1.0, 1.0, 1.0))])
def test_growth_is_limited(coder):
    anchor = torch.tensor([[0.0, 0.0, 15.0, 15.0]])
    box = coder.decode(torch.tensor([[0.0, 0.0, 50.0, 1e30]]), anchor)[0]
    assert (box[2:] - box[:2] + 1).tolist() == pytest.approx([1000, 1000], rel=1e-5)


def test_codes_of_several_classes():
    torch.manual_seed(0)
    anchors, codes = random_boxes(6), torch.randn(6, 12)
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    decoded = coder.decode(codes, anchors)
    assert decoded.shape == (6, 12)
    for k in range(3):
        columns = slice(4 * k, 4 * k + 4)
        torch.testing.assert_close(decoded[:, columns], coder.decode(codes[:, columns], anchors))


def test_no_boxes():
    empty = torch.zeros(0, 4)
    assert BoxCoder((1, 1, 1, 1)).decode(torch.zeros(0, 8), empty).shape == (0, 8)
    assert CenterBoxCoder().decode(empty, empty).shape == CenterBoxCoder().encode(empty, empty).shape == (0, 4)
