import pickle

import pytest
import torch
from golden_tools import TOLERANCES, assert_golden, golden_tensor, load_golden

from maskrcnn_benchmark.structures.bounding_box import FLIP_LEFT_RIGHT, FLIP_TOP_BOTTOM, BoxList

OPS = TOLERANCES["ops"]


@pytest.fixture
def boxes() -> BoxList:
    boxlist = BoxList([[10.0, 20.0, 39.0, 59.0], [0.0, 0.0, 9.0, 4.0], [50.0, 5.0, 70.0, 6.0]], (100, 80))
    boxlist.add_field("labels", torch.tensor([3, 1, 2]))
    return boxlist


@pytest.mark.parity
def test_resize_area_flips_and_modes_match_the_recording():
    npz = load_golden("ops.npz")
    recorded = golden_tensor(npz, "boxlist.resize.boxes")
    boxlist = BoxList(recorded, tuple(npz["boxlist.resize.from_wh"].tolist()))
    assert_golden(boxlist.resize(npz["boxlist.resize.to_wh"].tolist()).bbox, npz, "boxlist.resize.out", OPS)
    assert_golden(boxlist.area(), npz, "boxlist.area.out", OPS)
    assert_golden(boxlist.transpose(FLIP_LEFT_RIGHT).bbox, npz, "boxlist.flip.lr", OPS)
    assert_golden(boxlist.transpose(FLIP_TOP_BOTTOM).bbox, npz, "boxlist.flip.tb", OPS)
    assert_golden(boxlist.convert("xywh").bbox, npz, "boxlist.xywh.out", OPS)


@pytest.mark.parity
def test_clipping_matches_the_recording():
    npz = load_golden("ops.npz")
    recorded, size = golden_tensor(npz, "boxlist.clip.boxes"), tuple(npz["boxlist.clip.wh"].tolist())
    kept = BoxList(recorded[:30].clone(), size).clip_to_image(remove_empty=False)
    assert_golden(kept.bbox, npz, "boxlist.clip.clip_keep", OPS)
    removed = BoxList(recorded + 170, size).clip_to_image(remove_empty=True)
    assert_golden(removed.bbox, npz, "boxlist.clip.clip_removed_of_boxes_plus170", OPS)


def test_xywh_counts_the_last_pixel():
    boxlist = BoxList([[10, 20, 30, 40]], (100, 80), mode="xywh")
    assert boxlist.convert("xyxy").bbox.tolist() == [[10, 20, 39, 59]]
    assert boxlist.area().tolist() == boxlist.convert("xyxy").area().tolist() == [1200]
    empty = BoxList([[10, 20, 0, 0]], (100, 80), mode="xywh")
    assert empty.convert("xyxy").bbox.tolist() == [[10, 20, 10, 20]]


@pytest.mark.parametrize("mode", ["xyxy", "xywh"])
def test_flipping_left_right_twice_and_converting_back_change_nothing(boxes, mode):
    boxes = boxes.convert(mode)
    again = boxes.transpose(FLIP_LEFT_RIGHT).transpose(FLIP_LEFT_RIGHT)
    assert again.mode == mode
    torch.testing.assert_close(again.bbox, boxes.bbox)
    torch.testing.assert_close(boxes.convert("xyxy").convert("xywh").convert(mode).bbox, boxes.bbox)


@pytest.mark.parametrize("mode", ["xyxy", "xywh"])
def test_resizing_with_two_ratios_scales_the_corners(boxes, mode):
    resized = boxes.convert(mode).resize((200, 40))
    assert resized.size == (200, 40)
    torch.testing.assert_close(resized.convert("xyxy").bbox, boxes.bbox * torch.tensor([2.0, 0.5, 2.0, 0.5]))
    assert resized.get_field("labels").tolist() == [3, 1, 2]


def test_cropping_clamps_to_the_region(boxes):
    cropped = boxes.crop((5, 10, 55, 40))
    assert cropped.size == (50, 30)
    assert cropped.bbox[0].tolist() == [5, 10, 34, 30]


@pytest.mark.parametrize("mode", ["xyxy", "xywh"])
def test_clipping_works_in_place_in_both_modes(mode):
    boxlist = BoxList([[-5.0, -5.0, 9.0, 9.0], [90.0, 10.0, 200.0, 20.0], [120.0, 10.0, 130.0, 20.0]], (100, 80))
    boxlist = boxlist.convert(mode)
    kept = boxlist.clip_to_image(remove_empty=True)
    assert kept.convert("xyxy").bbox.tolist() == [[0, 0, 9, 9], [90, 10, 99, 20]]
    assert boxlist.convert("xyxy").bbox[1].tolist() == [90, 10, 99, 20]


def test_indexing_takes_the_fields_along(boxes):
    boxes.add_field("names", ["a", "b", "c"])
    boxes.add_field("caption", "three things")
    boxes.add_field("greenlight_map", torch.zeros(256), per_box=False)
    for item in (torch.tensor([2, 0]), [2, 0]):
        picked = boxes[item]
        assert picked.get_field("labels").tolist() == [2, 3]
        assert picked.get_field("names") == ["c", "a"]
        assert picked.get_field("caption") == "three things"
        assert picked.get_field("greenlight_map").shape == (256,)
    assert len(boxes[torch.tensor([False, True, False])]) == 1
    assert boxes[1:].get_field("names") == ["b", "c"]
    assert boxes[1].get_field("names") == ["b"]
    assert len(boxes[[]]) == 0


def test_fields_follow_to_other_devices_and_copies(boxes):
    boxes.add_field("caption", "text")
    moved = boxes.to("meta")
    assert moved.bbox.is_meta and moved.get_field("labels").is_meta and moved.get_field("caption") == "text"
    assert boxes.copy_with_fields("labels").fields() == ["labels"]
    assert boxes.copy_with_fields(["labels", "scores"], skip_missing=True).fields() == ["labels"]
    with pytest.raises(KeyError, match="scores.*labels"):
        boxes.copy_with_fields(["scores"])


def test_a_list_field_cannot_be_resized_and_the_error_says_what_to_do(boxes):
    boxes.add_field("names", ["a", "b", "c"])
    with pytest.raises(TypeError, match="'names' of type list.*per_box=False"):
        boxes.resize((50, 40))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(4), (10, 10)), r"\(4,\)"),
        ((torch.zeros(2, 5), (10, 10)), r"\(2, 5\)"),
        ((torch.zeros(2, 4), (10, 10), "cxcywh"), "cxcywh"),
        ((torch.zeros(2, 4), (10, 10, 3)), r"\(10, 10, 3\)"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        BoxList(*arguments)


def test_no_boxes():
    for empty in ([], torch.zeros(0, 4), torch.zeros(0)):
        boxlist = BoxList(empty, (10, 20))
        assert len(boxlist) == 0 and boxlist.bbox.shape == (0, 4)
        assert boxlist.convert("xywh").resize((5, 10)).clip_to_image().area().shape == (0,)
    assert repr(boxlist) == "BoxList(num_boxes=0, image_width=10, image_height=20, mode=xyxy)"


def test_pickles_of_the_original_can_be_used(boxes):
    """Such as its predictions.pth: they hold the same attributes, but for the names of the fields of an image."""
    boxes.add_field("caption", "a dog")
    state = {name: boxes.__dict__[name] for name in ("bbox", "size", "mode", "extra_fields")}
    old = BoxList.__new__(BoxList)
    old.__dict__.update(state)
    read = pickle.loads(pickle.dumps(old))
    assert read.resize((100, 200)).get_field("caption") == "a dog" and not read.is_per_box("caption")
    assert len(read[:1]) == 1 and torch.equal(read.bbox, boxes.bbox)
    boxes.add_field("kept", torch.zeros(3), per_box=False)
    assert not pickle.loads(pickle.dumps(boxes)).is_per_box("kept")
