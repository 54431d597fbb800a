import pytest
import torch
from golden_tools import TOLERANCES, assert_golden, golden_tensor, load_golden

from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.boxlist_ops import (
    boxlist_iou,
    boxlist_ml_nms,
    boxlist_nms,
    cat_boxlist,
    remove_small_boxes,
)


def scored(boxes, scores, labels=None, size=(100, 100)) -> BoxList:
    boxlist = BoxList(boxes, size)
    boxlist.add_field("scores", torch.tensor(scores))
    if labels is not None:
        boxlist.add_field("labels", torch.tensor(labels))
    return boxlist


@pytest.mark.parity
def test_iou_matches_the_recording():
    npz = load_golden("ops.npz")
    a, b = (BoxList(golden_tensor(npz, f"boxlist_iou.{name}"), (100, 100)) for name in "ab")
    assert_golden(boxlist_iou(a, b), npz, "boxlist_iou.iou", TOLERANCES["ops"])
    assert_golden(boxlist_iou(a.convert("xywh"), b), npz, "boxlist_iou.iou", TOLERANCES["ops"])


def test_iou_of_other_image_sizes_is_an_error():
    with pytest.raises(RuntimeError, match="image_width=10.*image_width=20"):
        boxlist_iou(BoxList([], (10, 10)), BoxList([], (20, 10)))


BOXES = [[0.0, 0, 9, 9], [0.0, 0, 9, 8], [50.0, 50, 59, 59], [0.0, 0, 9, 7]]
SCORES = [0.5, 0.9, 0.7, 0.8]


def test_nms_orders_by_score_and_ml_nms_by_position():
    assert boxlist_nms(scored(BOXES, SCORES), 0.5).get_field("scores").tolist() == pytest.approx([0.9, 0.7])
    kept = boxlist_ml_nms(scored(BOXES, SCORES, [1, 1, 1, 2]), 0.5)
    assert kept.get_field("scores").tolist() == pytest.approx([0.9, 0.7, 0.8])


def test_max_proposals_keeps_the_best():
    assert boxlist_nms(scored(BOXES, SCORES), 0.5, 1).get_field("scores").tolist() == pytest.approx([0.9])
    kept = boxlist_ml_nms(scored(BOXES, SCORES, [1, 1, 1, 2]), 0.5, 2)
    assert kept.get_field("scores").tolist() == pytest.approx([0.9, 0.8])


@pytest.mark.parametrize("mode", ["xyxy", "xywh"])
def test_a_threshold_of_zero_keeps_all_and_the_mode_is_kept(mode):
    boxlist = scored(BOXES, SCORES, [1, 1, 1, 1]).convert(mode)
    assert len(boxlist_nms(boxlist, 0)) == len(boxlist_ml_nms(boxlist, 0)) == 4
    assert boxlist_nms(boxlist, 0.5).mode == boxlist_ml_nms(boxlist, 0.5).mode == mode


def test_small_boxes_are_measured_with_the_last_pixel():
    boxlist = BoxList([[0, 0, 3, 3], [0, 0, 2, 9], [5, 5, 4, 9]], (10, 10))
    assert len(remove_small_boxes(boxlist, 4)) == 1
    assert len(remove_small_boxes(boxlist, 0)) == 3


def test_joining():
    a, b = scored(BOXES[:1], SCORES[:1]), scored(BOXES[1:], SCORES[1:])
    for part, names in ((a, ["w"]), (b, ["x", "y", "z"])):
        part.add_field("names", names)
        part.add_field("caption", "c")
    joined = cat_boxlist([a, b])
    assert joined.bbox.tolist() == BOXES
    assert joined.get_field("names") == ["w", "x", "y", "z"] and joined.get_field("caption") == "c"


def test_joining_what_does_not_fit_names_the_difference():
    a = scored(BOXES, SCORES)
    with pytest.raises(ValueError, match=r"size: \(100, 100\) and \(5, 5\)"):
        cat_boxlist([a, scored(BOXES, SCORES, size=(5, 5))])
    with pytest.raises(ValueError, match="mode: xyxy and xywh"):
        cat_boxlist([a, a.convert("xywh")])
    with pytest.raises(ValueError, match="fields"):
        cat_boxlist([a, a.copy_with_fields([])])
    with pytest.raises(ValueError, match="non-empty"):
        cat_boxlist([])
