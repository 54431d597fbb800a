import pytest
import torch
from golden_tools import golden_tensor, load_golden

from maskrcnn_benchmark.modeling.anchors import AnchorGenerator
from maskrcnn_benchmark.modeling.assigners.atss import atss_assign, closest_anchors
from maskrcnn_benchmark.modeling.box_coder import CenterBoxCoder
from maskrcnn_benchmark.structures.boxlist_ops import pairwise_iou

GLIP_SIZES = ((64,), (128,), (256,), (512,), (1024,))
STRIDES = (8, 16, 32, 64, 128)


def glip_anchors(height: int, width: int) -> list[torch.Tensor]:
    return AnchorGenerator(GLIP_SIZES).grid_anchors([(-(-height // s), -(-width // s)) for s in STRIDES])


def assign(levels, boxes, labels, topk=9):
    boxes, labels = torch.as_tensor(boxes, dtype=torch.float32), torch.as_tensor(labels)
    return atss_assign(torch.cat(levels), [len(level) for level in levels], boxes, labels, topk)


def by_definition(levels, boxes, labels, topk=9):
    """The selection as its paper writes it, with the matrix of all anchors and boxes."""
    anchors = torch.cat(levels)
    iou = pairwise_iou(anchors, boxes)
    centers, box_centers = (anchors[:, :2] + anchors[:, 2:]) / 2, (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = (centers[:, None] - box_centers).pow(2).sum(-1).sqrt()
    value = torch.full_like(iou, -1.0)
    for g in range(len(boxes)):
        candidates, first = [], 0
        for level in levels:
            own = distance[first : first + len(level), g]
            candidates.append(first + own.topk(min(topk, len(level)), largest=False).indices)
            first += len(level)
        candidates = torch.cat(candidates)
        threshold = iou[candidates, g].mean() + iou[candidates, g].std()
        for n in candidates.tolist():
            x, y = centers[n].tolist()
            x1, y1, x2, y2 = boxes[g].tolist()
            if iou[n, g] >= threshold and min(x - x1, y - y1, x2 - x, y2 - y) > 0.01:
                value[n, g] = iou[n, g]
    best, index = value.max(dim=1)
    return torch.where(best >= 0, labels[index], 0), torch.where(best >= 0, index, 0), best >= 0


@pytest.mark.parity
@pytest.mark.parametrize("case", [0, 1, 2])
def test_matches_the_recording(case, device):
    npz, name = load_golden("ops.npz"), f"atss{case}"
    levels = [level.to(device) for level in glip_anchors(*npz[f"{name}.hw"].tolist())]
    boxes = golden_tensor(npz, f"{name}.gt").to(device)
    labels, gt_index, is_positive = assign(levels, boxes, golden_tensor(npz, f"{name}.gt_labels").to(device))
    positive = is_positive.nonzero()[:, 0]
    assert len(labels) == npz[f"{name}.n_anchor"]
    assert positive.tolist() == npz[f"{name}.pos_anchor"].tolist()
    assert labels[positive].tolist() == npz[f"{name}.pos_label"].tolist()
    codes = CenterBoxCoder().encode(boxes[gt_index[positive]], torch.cat(levels)[positive])
    torch.testing.assert_close(codes.cpu(), golden_tensor(npz, f"{name}.pos_reg"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definition(seed):
    torch.manual_seed(seed)
    levels = glip_anchors(224, 320)
    corner = torch.rand(12, 2) * torch.tensor([280.0, 190.0])
    boxes = torch.cat((corner, corner + 4 + torch.rand(12, 2) * 120), dim=1)
    if seed == 3:  # many ties: duplicates, and centres in the middle of cells
        boxes = (boxes / 16).round() * 16
        boxes[6:] = boxes[:6]
    labels = torch.randint(1, 80, (12,))
    for actual, expected in zip(assign(levels, boxes, labels), by_definition(levels, boxes, labels), strict=True):
        assert torch.equal(actual, expected)


def test_a_case_by_hand():
    """One level of four anchors in a row and one box over the second: threshold = mean + unbiased deviation."""
    anchors = torch.tensor([[0.0, 0, 9, 9], [10, 0, 19, 9], [20, 0, 29, 9], [30, 0, 39, 9]])
    box = [[10.0, 0, 24, 9]]  # IoU 0, 10/15, 5/20, 0: with three candidates mean 0.3056, deviation 0.3368
    labels, gt_index, is_positive = assign([anchors], box, [7], topk=3)
    assert labels.tolist() == [0, 7, 0, 0] and gt_index.tolist() == [0] * 4
    assert is_positive.tolist() == [False, True, False, False]


def test_a_box_without_a_centre_inside_has_no_anchor():
    assert not assign(glip_anchors(128, 128), [[36.0, 36.0, 43.0, 43.4]], [1]).is_positive.any()


def test_a_single_candidate_has_no_threshold():
    assert not assign([torch.tensor([[0.0, 0, 9, 9]])], [[0.0, 0, 9, 9]], [1]).is_positive.any()


def test_no_boxes(device):
    levels = [level.to(device) for level in glip_anchors(64, 64)]
    labels, gt_index, is_positive = assign(levels, torch.zeros(0, 4, device=device), torch.zeros(0, dtype=torch.int64))
    assert labels.eq(0).all() and gt_index.eq(0).all() and not is_positive.any()
    assert labels.dtype == gt_index.dtype == torch.int64


def test_equal_distances_are_chosen_as_the_original_chooses_them():
    """It asks `topk` on the CPU for each column of the matrix of all distances."""
    torch.manual_seed(0)
    levels, differs = glip_anchors(320, 416), False
    anchors = torch.cat(levels)
    corner = (torch.rand(60, 2) * torch.tensor([300.0, 220.0])).round()
    boxes = torch.cat((corner, corner + 5 + (torch.rand(60, 2) * 95).round()), dim=1)
    centers, box_centers = (anchors[:, :2] + anchors[:, 2:]) / 2, (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = (centers[:, None] - box_centers).pow(2).sum(-1).sqrt()
    expected, first = [], 0
    for level in levels:
        own = distance[first : first + len(level)]
        expected.append(first + own.topk(min(9, len(level)), dim=0, largest=False).indices.T)
        lowest = first + own.argsort(dim=0, stable=True)[:9].T
        differs |= not torch.equal(expected[-1].sort().values, lowest.sort().values)
        first += len(level)
    assert differs, "no box has equal distances at the end of its candidates"
    actual = closest_anchors(anchors, [len(level) for level in levels], boxes, 9)
    assert torch.equal(actual, torch.cat(expected, dim=1))


@pytest.mark.gpu
def test_equal_distances_take_the_lowest_index_on_a_gpu():
    anchors = torch.tensor([[0.0, 0, 9, 9]], device="cuda").repeat(50, 1)
    boxes = torch.tensor([[20.0, 20, 29, 29], [0.0, 0, 9, 9]], device="cuda")
    assert closest_anchors(anchors, [20, 30], boxes, 3).tolist() == [[0, 1, 2, 20, 21, 22]] * 2


def test_of_equal_boxes_the_first_takes_the_anchors():
    box = [[40.0, 40.0, 100.0, 100.0]] * 2
    result = assign(glip_anchors(160, 160), box, [4, 5])
    assert result.is_positive.any() and result.labels.max() == 4


def test_the_order_of_the_boxes_only_renames_them():
    torch.manual_seed(0)
    levels = glip_anchors(224, 320)
    corner = torch.rand(6, 2) * 180
    boxes, labels = torch.cat((corner, corner + 20 + torch.rand(6, 2) * 60), dim=1), torch.arange(1, 7)
    order = torch.randperm(6)
    assert torch.equal(assign(levels, boxes, labels).labels, assign(levels, boxes[order], labels[order]).labels)


def test_sizes_that_do_not_fit_are_named():
    anchors = torch.zeros(5, 4)
    with pytest.raises(ValueError, match=r"\[2, 2\].*5"):
        atss_assign(anchors, [2, 2], torch.zeros(1, 4), torch.ones(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="1 boxes but 2 labels"):
        atss_assign(anchors, [5], torch.zeros(1, 4), torch.ones(2, dtype=torch.int64))
