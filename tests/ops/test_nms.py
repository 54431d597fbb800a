import importlib
import json

import pytest
import torch
from golden_tools import golden_path, golden_tensor, load_golden

from maskrcnn_benchmark import layers
from maskrcnn_benchmark.ops.nms import ml_nms, nms, nms_keep_mask, soft_nms

nms_module = importlib.import_module("maskrcnn_benchmark.ops.nms")  # the package has a function of that name
KEEP_MASK = torch.ops.maskrcnn_benchmark.nms_keep_mask.default
SOFT_NMS = torch.ops.maskrcnn_benchmark.soft_nms.default


def greedy(boxes, scores, labels, threshold):
    """Suppression from its definition, one pair at a time."""
    kept: list[int] = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if all(labels[i] != labels[j] or inclusive_iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return sorted(kept)


def random_boxes(*shape, seed=0, spread=60.0):
    """Boxes (*shape, 4) around a small picture, many of which overlap."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator) * spread - spread / 3
    return torch.cat((corner, corner + torch.rand(*shape, 2, generator=generator) * 40), dim=-1)


def random_batch(images=3, boxes=150, labels=4, seed=0, device="cpu"):
    """Arguments of `nms_keep_mask` but the threshold, with images that have fewer boxes than fit."""
    generator = torch.Generator().manual_seed(seed)
    return (
        random_boxes(images, boxes, seed=seed).to(device),
        torch.randint(1, labels + 1, (images, boxes), generator=generator).to(device),
        torch.linspace(boxes, 0, images).long().to(device),
    )


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
    boxes, generator = random_boxes(60, seed=seed), torch.Generator().manual_seed(seed)
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


def test_soft_nms_leaves_out_what_is_no_number(device):
    boxes = torch.tensor([[0.0, 0, 9, 9], [0.0, 0, 9, 4], [torch.nan, 0, 9, 9], [0.0, 0, 9, 9]], device=device)
    scores = torch.tensor([0.9, 0.8, 0.7, torch.nan], device=device)
    keep, lowered = soft_nms(boxes, scores)
    assert keep.tolist() == [0, 2, 1]
    torch.testing.assert_close(lowered.cpu(), torch.tensor([0.9, 0.7, 0.8 * torch.exp(torch.tensor(-0.5)).item()]))
    assert nms(boxes, scores, 0.4).tolist() in ([0, 2], [2, 3])  # a score that is no number counts as the best


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("has_labels", [True, False])
@pytest.mark.parametrize("has_counts", [True, False])
def test_a_batch_equals_the_definition(dtype, has_labels, has_counts, device):
    boxes, labels, counts = random_batch(boxes=70)
    boxes = boxes.to(dtype)
    numbers = counts.tolist() if has_counts else [70] * 3
    keep = nms_keep_mask(
        boxes.to(device), labels.to(device) if has_labels else None, counts.to(device) if has_counts else None, 0.5
    )
    assert keep.shape == (3, 70) and keep.dtype == torch.bool and keep.device.type == device.type
    for i, number in enumerate(numbers):
        descending, own = torch.arange(number, 0, -1), labels[i] if has_labels else torch.zeros(70)
        assert keep[i].nonzero().squeeze(1).tolist() == greedy(boxes[i].tolist(), descending, own.tolist(), 0.5)


@pytest.mark.parametrize("number", [1, 63, 64, 65, 127, 128, 129, 1100])
def test_numbers_of_boxes_around_a_word(number, device):
    boxes, labels, _ = random_batch(images=1, boxes=number, labels=2)
    expected = greedy(boxes[0].tolist(), torch.arange(number, 0, -1), labels[0].tolist(), 0.3)
    assert nms_keep_mask(boxes.to(device), labels.to(device), None, 0.3)[0].nonzero().squeeze(1).tolist() == expected


def test_chains_of_overlaps_are_settled_in_order(device):
    left = torch.arange(200.0)[:, None] * 4
    boxes = torch.cat((left, left * 0, left + 9, left * 0 + 9), dim=1)[None].to(device)  # each overlaps its neighbours
    assert nms_keep_mask(boxes, None, None, 0.3)[0].tolist() == [i % 2 == 0 for i in range(200)]


def test_overlaps_at_the_threshold_and_broken_boxes(device):
    """Thresholds that are the overlaps themselves, and coordinates that are no numbers or have no end."""
    widths = torch.arange(1.0, 100)
    boxes = torch.zeros(2, 99, 2, 4)
    boxes[..., 3], boxes[:, :, 0, 2], boxes[:, :, 1, 2] = 9.0, 99.0, widths - 1
    for i, width in enumerate(widths.tolist()):
        pair = boxes[0, i][None].to(device)
        assert nms_keep_mask(pair, None, None, width / 100).tolist() == [[True, True]]
        assert nms_keep_mask(pair, None, None, width / 100 - 1e-9).tolist() == [[True, False]]
    broken = torch.tensor([[[0.0, 0, 9, 9], [torch.nan, 0, 9, 9], [-torch.inf, 0, torch.inf, 9], [0, 0, 9, 8]]])
    assert nms_keep_mask(broken.to(device), None, None, 0.5).tolist() == [[True, True, True, False]]


def test_the_operators_equal_their_plain_definitions(device):
    arguments = random_batch(device=device)
    for part in (arguments, (arguments[0], None, None), (arguments[0].transpose(0, 1), None, None)):
        for threshold in (0.2, 0.6):
            assert torch.equal(KEEP_MASK(*part, threshold), nms_module._keep_mask_plain(*part, threshold))
    for dtype in (torch.float32, torch.float64):
        boxes, scores = random_boxes(80).to(device, dtype), torch.rand(80, dtype=dtype, device=device)
        order, taken, count = SOFT_NMS(boxes, scores, 0.01, 0.5)
        expected = nms_module._soft_nms_plain(boxes, scores, 0.01, 0.5)
        assert torch.equal(order[:count], expected[0][:count]) and torch.equal(count, expected[2]) and 0 < count < 80
        torch.testing.assert_close(taken[:count], expected[1][:count])


def test_operator_checks(device):
    boxes, labels, counts = random_batch(boxes=20, device=device)
    scores = torch.linspace(1, 0.1, 20, device=device)
    torch.library.opcheck(KEEP_MASK, (boxes, labels, counts, 0.5))
    torch.library.opcheck(KEEP_MASK, (boxes, None, None, 0.5))
    torch.library.opcheck(SOFT_NMS, (boxes[0], scores, 0.001, 0.5))


def test_the_mask_compiles_as_one_graph(device):
    boxes, labels, counts = random_batch(device=device)

    def kept(boxes, labels, counts):
        return nms_keep_mask(boxes * 2, labels, counts, 0.5).sum(1)

    compiled = torch.compile(kept, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(boxes, labels, counts), kept(boxes, labels, counts))


@pytest.mark.gpu
def test_a_recorded_graph_reads_fresh_input():
    boxes, labels, counts = random_batch(images=2, boxes=700, device="cuda")
    scores = torch.rand(700, device="cuda")
    for _ in range(2):
        keep, soft = nms_keep_mask(boxes, labels, counts, 0.5), SOFT_NMS(boxes[0], scores, 0.1, 0.5)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        keep, soft = nms_keep_mask(boxes, labels, counts, 0.5), SOFT_NMS(boxes[0], scores, 0.1, 0.5)
    for seed in (1, 2):
        fresh = random_batch(images=2, boxes=700, seed=seed, device="cuda")
        for static, new in zip((boxes, labels, counts), fresh, strict=True):
            static.copy_(new)
        graph.replay()
        assert torch.equal(keep, nms_keep_mask(*fresh, 0.5))
        assert all(torch.equal(a, b) for a, b in zip(soft, SOFT_NMS(fresh[0][0], scores, 0.1, 0.5), strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("images, boxes", [(8, 5000), (1, 40_000)])
def test_many_boxes_on_the_gpu_equal_those_on_the_cpu(images, boxes):
    """The second case is more than the workspace holds at once."""
    batch = random_batch(images, boxes, labels=80)
    expected = nms_keep_mask(*batch, 0.6)
    assert torch.equal(nms_keep_mask(*(part.cuda() for part in batch), 0.6).cpu(), expected)


def test_no_boxes_in_a_batch(device):
    for shape in ((0, 5), (2, 0), (0, 0)):
        keep = nms_keep_mask(torch.zeros(*shape, 4, device=device), None, None, 0.5)
        assert keep.shape == shape and keep.dtype == torch.bool
    counts = torch.zeros(2, dtype=torch.int64, device=device)
    assert not nms_keep_mask(torch.zeros(2, 3, 4, device=device), None, counts, 0.5).any()


def test_counts_beyond_the_boxes_are_cut(device):
    boxes, _, _ = random_batch(images=3, boxes=5, device=device)
    counts = torch.tensor([-1, 9, 2], device=device)
    expected = nms_keep_mask(boxes, None, counts.clamp(0, 5), 0.5)
    assert not expected[0].any() and expected[1].any()
    assert torch.equal(nms_keep_mask(boxes, None, counts, 0.5), expected)
    assert torch.equal(nms_module._keep_mask_plain(boxes, None, counts, 0.5), expected)


def test_wrong_arguments_of_the_operators_are_named(device):
    boxes, labels, counts = random_batch(images=2, boxes=3, device=device)
    for arguments, message in (
        ((boxes[0], None, None), r"boxes must have the shape \(B, K, 4\), got \(3, 4\)"),
        ((boxes, labels[:, :2], None), r"labels must have the shape \(2, 3\), got \(2, 2\)"),
        ((boxes, None, counts[:1]), r"counts must have the shape \(2,?\), got \(1,?\)"),
        ((boxes, labels.int(), None), r"labels must be (Long|torch.int64|int64), got (Int|torch.int32)"),
    ):
        with pytest.raises(RuntimeError, match=message):
            nms_keep_mask(*arguments, 0.5)
