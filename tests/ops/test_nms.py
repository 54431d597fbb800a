import json

import pytest
import torch
from golden_tools import golden_path, golden_tensor, load_golden

from maskrcnn_benchmark import layers
from maskrcnn_benchmark.ops.nms import ml_nms, nms, soft_nms


def greedy(boxes, scores, labels, threshold):
    """Suppression from its definition, one pair at a time."""
    kept: list[int] = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if all(labels[i] != labels[j] or inclusive_iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return sorted(kept)


def inclusive_iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    area_a, area_b = ((c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b))
    return width * height / (area_a + area_b - width * height)


@pytest.mark.parity
@pytest.mark.parametrize("threshold", [0.3, 0.6])
def test_ml_nms_matches_the_recording(threshold, device):
    npz = load_golden("ops.npz")
    boxes, scores, labels = (
        golden_tensor(npz, f"ml_nms.thr{threshold}.{name}").to(device) for name in ("boxes", "scores", "labels")
    )
    expected = npz[f"ml_nms.thr{threshold}.keep_sorted_by_index"].tolist()
    assert ml_nms(boxes, scores, labels, threshold).tolist() == expected
    assert ml_nms(boxes, scores, labels.float(), threshold).tolist() == expected


@pytest.mark.parity
def test_nms_passes_the_published_cases(device):
    """The numbers that caffe2 tests its suppression with, as maskrcnn-benchmark does."""
    cases = json.loads(golden_path("caffe2_nms.json").read_text())
    five, many = cases["five_boxes"], cases["fifty_three_boxes"]
    boxes, scores = torch.tensor(five["boxes"], device=device).float(), torch.tensor(five["scores"], device=device)
    for threshold, kept in five["kept_by_threshold"].items():
        assert layers.nms(boxes, scores, float(threshold)).tolist() == sorted(kept)
    boxes, scores = torch.tensor(many["boxes"], device=device), torch.tensor(many["scores"], device=device)
    assert layers.nms(boxes, scores, many["threshold"]).tolist() == many["kept"]


@pytest.mark.parametrize("seed", range(3))
def test_random_boxes_equal_the_definition(seed, device):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(60, 2, generator=generator) * 60 - 20
    boxes = torch.cat((corner, corner + torch.rand(60, 2, generator=generator) * 40), dim=1)
    scores = torch.rand(60, generator=generator).mul(20).round() / 20  # with ties
    labels = torch.randint(1, 4, (60,), generator=generator)
    for threshold in (0.1, 0.5, 0.7):
        expected = greedy(boxes.tolist(), scores, labels.tolist(), threshold)
        assert ml_nms(boxes.to(device), scores.to(device), labels.to(device), threshold).tolist() == expected
        expected = greedy(boxes.tolist(), scores, [0] * 60, threshold)
        assert nms(boxes.to(device), scores.to(device), threshold).tolist() == expected


def test_the_last_pixel_counts_and_the_comparison_is_strict():
    boxes, scores = torch.tensor([[0.0, 0, 9, 9], [0.0, 0, 9, 4]]), torch.tensor([0.9, 0.8])
    labels = torch.ones(2)
    assert nms(boxes, scores, 0.5).tolist() == ml_nms(boxes, scores, labels, 0.5).tolist() == [0, 1]
    assert nms(boxes, scores, 0.499).tolist() == ml_nms(boxes, scores, labels, 0.499).tolist() == [0]


def test_labels_far_apart_stay_apart_and_equal_ones_together():
    boxes = torch.tensor([[0.3, 0.3, 1333.7, 800.1]]).repeat(4, 1) + torch.tensor([[0.0], [0.1], [0.0], [0.1]])
    labels = torch.tensor([1, 100_000, 100_000, 1])
    assert ml_nms(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), labels, 0.6).tolist() == [0, 1]


def test_no_boxes(device):
    boxes, scores = torch.zeros(0, 4, device=device), torch.zeros(0, device=device)
    for kept in (nms(boxes, scores, 0.5), ml_nms(boxes, scores, scores, 0.5), soft_nms(boxes, scores)[0]):
        assert kept.shape == (0,) and kept.dtype == torch.int64 and kept.device.type == device.type


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(N, 4\), got \(3, 5\)"):
        nms(torch.zeros(3, 5), torch.zeros(3), 0.5)
    with pytest.raises(ValueError, match=r"scores must have the shape \(3,\).*got \(2,\)"):
        ml_nms(torch.zeros(3, 4), torch.zeros(2), torch.zeros(3), 0.5)
    with pytest.raises(ValueError, match=r"labels.*\(3,\), got \(2,\)"):
        ml_nms(torch.zeros(3, 4), torch.zeros(3), torch.zeros(2), 0.5)


def test_soft_nms_lowers_the_scores_of_overlapping_boxes():
    boxes = torch.tensor([[0.0, 0, 9, 9], [50.0, 50, 59, 59], [0.0, 0, 9, 4]])
    keep, scores = soft_nms(boxes, torch.tensor([0.9, 0.6, 0.8]), sigma=0.5)
    assert keep.tolist() == [0, 1, 2]
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.6, 0.8 * torch.exp(torch.tensor(-0.5)).item()]))
    keep, _ = soft_nms(boxes, torch.tensor([0.9, 0.6, 0.8]), 0.5, 0.5)
    assert keep.tolist() == [0, 1]


def test_soft_nms_passes_the_published_case():
    """Gaussian case of caffe2's test of its soft suppression."""
    boxes = torch.tensor(
        [
            [518.349426, 177.78392, 906.085266, 259.163239],
            [211.392624, 176.144958, 614.215149, 248.934662],
            [465.724518, 183.594269, 939.0, 255.136627],
            [607.164246, 260.230377, 832.768127, 339.919891],
            [323.936859, 343.427063, 620.561157, 398.286072],
        ]
    )
    scores = torch.tensor([0.817906916, 0.952467501, 0.673921347, 0.999834776, 0.999737203])
    keep, lowered = soft_nms(boxes, scores, score_threshold=0.0001, sigma=0.5)
    assert keep.tolist() == [3, 4, 1, 0, 2]
    expected = torch.tensor([0.999834776, 0.999737203, 0.952467501, 0.791758895, 0.212320581])
    torch.testing.assert_close(lowered, expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="sigma must be positive, got 0"):
        soft_nms(boxes, scores, sigma=0)
