"""Test-time augmentation: what passes find comes back to the picture, and is merged."""

import math

import pytest
import torch
from PIL import Image

from maskrcnn_benchmark.config import default_config
from maskrcnn_benchmark.data.transforms.transforms import Normalize
from maskrcnn_benchmark.engine.bbox_aug import im_detect_bbox_aug
from maskrcnn_benchmark.engine.finders import Item
from maskrcnn_benchmark.engine.tta import MergeSettings, TestTimeAugmentation, merge_boxes, vote, within
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.boxlist_ops import pairwise_iou

WHITE = (40, 20, 59, 49)  # the white part of the pictures, xyxy inclusive


def picture(box=WHITE) -> Image.Image:
    image = Image.new("RGB", (100, 80))
    image.paste((255, 255, 255), (box[0], box[1], box[2] + 1, box[3] + 1))
    return image


class FindsWhite:
    """Finds the white box under each label, and remembers what it was shown."""

    def __init__(self, labels=(1, 200), score=0.5):
        self.labels, self.score = labels, score
        self.seen: list[tuple[tuple[int, int], bool]] = []

    def __call__(self, images, items, *, mirrored=False):
        results = []
        for tensor, (height, width) in zip(images.tensors, images.image_sizes, strict=True):
            self.seen.append(((width, height), mirrored))
            rows, columns = (tensor[:, :height, :width].mean(0) > 0.5).nonzero().unbind(1)
            box = [columns.min(), rows.min(), columns.max(), rows.max()]
            found = BoxList([[float(side) for side in box]] * len(self.labels), (width, height))
            found.add_field("labels", torch.tensor(self.labels))
            found.add_field("scores", torch.full((len(self.labels),), self.score))
            results.append(found)
        return results


def augmentation(find, **options) -> TestTimeAugmentation:
    arguments = {"sizes": (80, 160), "max_size": 400, "normalize": Normalize([0.0] * 3, [1.0] * 3)} | options
    return TestTimeAugmentation(find, "cpu", **arguments)


@pytest.mark.parametrize("method", ["none", "soft-nms", "vote", "soft-vote", "another"])
def test_passes_agree_on_the_picture(method):
    """Every label is kept, whatever TEST.NUM_CLASSES says, and boxes of mirrored and larger pictures come back."""
    find = FindsWhite()
    merge = MergeSettings(method=method, threshold=0.6)
    found, other = augmentation(find, merge=merge)([picture(), picture((0, 0, 9, 9))], [Item(None, 0), Item(None, 1)])
    assert (
        find.seen
        == [((100, 80), False)] * 2 + [((100, 80), True)] * 2 + [((200, 160), False)] * 2 + [((200, 160), True)] * 2
    )
    assert found.size == (100, 80) and found.get_field("labels").unique().tolist() == [1, 200]
    for boxes, wanted in ((found, WHITE), (other, (0, 0, 9, 9))):
        best = boxes.bbox[boxes.get_field("scores") == boxes.get_field("scores").max()]
        torch.testing.assert_close(best[0], torch.tensor(wanted, dtype=torch.float32), atol=1.0, rtol=0)
    assert len(found) == 2 or method in ("soft-nms", "soft-vote")


def test_ranges_count_in_pixels_of_their_size():
    """The box has 20x30 pixels at the first size and 40x60 at the second."""
    side = math.sqrt(20 * 30)
    find = FindsWhite(labels=(1,))
    ranges = ((side - 1, side + 1), (side - 1, side + 1))
    (found,) = augmentation(find, ranges=ranges, use_mirrored=False, merge=MergeSettings(threshold=0))(
        [picture()], [Item(None, 0)]
    )
    assert len(found) == 1
    (found,) = augmentation(find, ranges=ranges[:1], use_mirrored=False, merge=MergeSettings(threshold=0))(
        [picture()], [Item(None, 0)]
    )
    assert len(found) == 2, "as many ranges as sizes, or none"


def test_range_is_open():
    boxes = BoxList([[0, 0, 9, 9]], (100, 80))  # 10 x 10 with the inclusive ends
    assert [len(within(boxes, low, high)) for low, high in ((9, 11), (10, 11), (9, 10))] == [1, 0, 0]


def boxes_of(rows) -> BoxList:
    boxes = BoxList([row[0] for row in rows], (100, 80))
    boxes.add_field("scores", torch.tensor([row[1] for row in rows]))
    boxes.add_field("labels", torch.tensor([row[2] for row in rows]))
    return boxes


def test_vote_by_hand():
    """The first two overlap by 90 / 110 and become their mean, weighted 3 : 1; the third is alone."""
    boxes = torch.tensor([[0.0, 0, 9, 9], [1.0, 0, 10, 9], [50.0, 50, 59, 59]])
    scores = torch.tensor([0.2, 0.6, 0.5])
    found, found_scores = vote(boxes, scores, 0.6)
    torch.testing.assert_close(found, torch.tensor([[0.75, 0, 9.75, 9], [50, 50, 59, 59]]))
    torch.testing.assert_close(found_scores, torch.tensor([0.6, 0.5]))
    found, found_scores = vote(boxes, scores, 0.6, soft_floor=0.03)
    torch.testing.assert_close(found_scores, torch.tensor([0.6, 0.2 * (1 - 90 / 110), 0.5]))
    assert torch.equal(found[1], boxes[0])
    assert len(vote(boxes, scores, 0.6, soft_floor=0.05)[0]) == 2
    assert len(vote(boxes[:0], scores[:0], 0.6)[0]) == 0


def vote_one_by_one(boxes, scores, threshold, soft_floor):
    """The definition: the best box takes all that overlap it enough, again and again."""
    order = scores.argsort(descending=True, stable=True)
    boxes, scores = boxes[order], scores[order]
    found = []
    while len(boxes):
        overlap = pairwise_iou(boxes[:1].double(), boxes.double())[0]
        same = overlap >= threshold
        members, weights = boxes[same], scores[same]
        if len(members) == 1:
            found.append((members[0], weights[0]))
        else:
            found.append(((members * weights[:, None]).sum(0) / weights.sum(), weights[0]))
            lowered = weights * (1 - overlap[same])
            found += [(box, score) for box, score in zip(members, lowered, strict=True) if score >= soft_floor]
        boxes, scores = boxes[~same], scores[~same]
    return torch.stack([box for box, _ in found]), torch.stack([score.float() for _, score in found])


@pytest.mark.parametrize("soft_floor", [0.05, 2.0])
def test_vote_as_defined(soft_floor):
    """A floor of 2 keeps nothing beside the votes, as none does."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(60, 2, generator=generator).repeat(8, 1) * 300 + torch.randn(480, 2, generator=generator) * 6
    boxes = torch.cat([corners, corners + 30 + torch.rand(480, 2, generator=generator) * 20], 1)
    scores = torch.rand(480, generator=generator) + 0.01
    found, found_scores = vote(boxes, scores, 0.6, soft_floor)
    wanted, wanted_scores = vote_one_by_one(boxes, scores, 0.6, soft_floor)
    assert 60 < len(wanted) < 480
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(found_scores, wanted_scores)
    if soft_floor > 1:
        assert torch.equal(vote(boxes, scores, 0.6)[0], found)


def test_labels_do_not_meet_and_the_best_come_first():
    rows = [([0, 0, 9, 9], 0.3, 1), ([0, 0, 9, 9], 0.9, 2), ([0, 0, 9, 9], 0.5, 1)]
    for method in ("none", "vote"):
        found = merge_boxes(boxes_of(rows), MergeSettings(method=method))
        assert found.get_field("labels").tolist() == [2, 1]
        torch.testing.assert_close(found.get_field("scores"), torch.tensor([0.9, 0.5]))


def test_soft_nms_keeps_what_overlaps_little():
    """The original took the overlap threshold, here 0.6, for the lowest score."""
    rows = [([0, 0, 9, 9], 0.5, 1), ([0, 8, 9, 17], 0.4, 1)]
    found = merge_boxes(boxes_of(rows), MergeSettings(method="soft-nms"))
    overlap = 20 / 180
    torch.testing.assert_close(found.get_field("scores"), torch.tensor([0.5, 0.4 * math.exp(-(overlap**2) / 0.95)]))


def test_limits():
    rows = [([10 * i, 0, 10 * i + 5, 5], score, i + 1) for i, score in enumerate((0.9, 0.5, 0.5, 0.1))]
    assert len(merge_boxes(boxes_of(rows), MergeSettings(max_boxes=2))) == 3, "equal scores stay together"
    found = merge_boxes(boxes_of(rows), MergeSettings(labels=(1, 4)))
    assert found.get_field("labels").tolist() == [1, 4]
    assert len(merge_boxes(boxes_of(rows)[torch.tensor([], dtype=torch.int64)], MergeSettings(method="vote"))) == 0


def test_no_size_is_an_error():
    with pytest.raises(ValueError, match="TEST.SCALES is empty"):
        augmentation(FindsWhite(), sizes=())


def test_historical_entrance():
    cfg = default_config()
    cfg.merge_from_list(["TEST.SCALES", (80,), "TEST.RANGES", ((0, 1e4),), "INPUT.PIXEL_MEAN", [0.0] * 3])
    cfg.merge_from_list(["INPUT.PIXEL_STD", [1.0] * 3, "INPUT.TO_BGR255", False, "INPUT.FORMAT", ""])
    calls = []

    def model(images, captions=None, positive_map=None):
        calls.append((captions, positive_map))
        return FindsWhite(labels=(1,))(images, None)

    (found,) = im_detect_bbox_aug(model, (picture(),), "cpu", ["cup"], {1: [1]}, cfg=cfg)
    assert calls == [(["cup"], {1: [1]})] * 2 and len(found) == 1
    assert found.bbox.round().int().tolist() == [list(WHITE)]
    im_detect_bbox_aug(model, (picture(),), "cpu", cfg=cfg)
    assert calls[2:] == [(None, None)] * 2
