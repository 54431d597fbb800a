import pytest
import torch
from golden_tools import TOLERANCES, assert_golden, golden_tensor, load_golden

from maskrcnn_benchmark.modeling.box_coder import CenterBoxCoder
from maskrcnn_benchmark.modeling.losses.centerness import centerness_targets
from maskrcnn_benchmark.modeling.losses.contrastive import contrastive_align_loss, soft_cross_entropy
from maskrcnn_benchmark.modeling.losses.iou import giou_loss
from maskrcnn_benchmark.modeling.losses.shallow_contrastive import (
    choose_anchors,
    pair_matrix,
    shallow_contrastive_loss,
)


@pytest.mark.parity
def test_giou_matches_the_recording():
    npz, coder = load_golden("ops.npz"), CenterBoxCoder()
    codes, anchors = golden_tensor(npz, "giou.pred").requires_grad_(), golden_tensor(npz, "giou.anchors")
    pred, target = coder.decode(codes, anchors), coder.decode(golden_tensor(npz, "giou.target"), anchors)
    weight = golden_tensor(npz, "giou.weight")
    loss = giou_loss(pred, target, weight)
    assert_golden(loss, npz, "giou.loss", TOLERANCES["ops"])
    loss.backward()
    assert_golden(codes.grad, npz, "giou.grad", TOLERANCES["ops_gradient"])
    assert_golden(giou_loss(pred, target), npz, "giou.loss_noweight", TOLERANCES["ops"])
    assert_golden(giou_loss(pred, target, weight * 0), npz, "giou.loss_zeroweight", TOLERANCES["ops"])


def test_giou_of_simple_boxes():
    box = torch.tensor([[0.0, 0, 10, 10]])
    assert giou_loss(box, box).item() == pytest.approx(0, abs=1e-6)
    apart = torch.tensor([[20.0, 0, 30, 10]])
    assert giou_loss(apart, box).item() == pytest.approx(1 + 100 / 300)
    inverted = torch.tensor([[5.0, 5, 1, 1]], requires_grad=True)  # counts as the empty box at (5, 5)
    loss = giou_loss(inverted, box)
    loss.backward()
    assert loss.item() == pytest.approx(1.0) and inverted.grad.isfinite().all()
    none = torch.zeros(0, 4, requires_grad=True)
    loss = giou_loss(none, torch.zeros(0, 4), torch.zeros(0))
    loss.backward()
    assert loss == 0 and none.grad.shape == (0, 4)


@pytest.mark.parity
def test_centerness_matches_the_recording():
    npz = load_golden("ops.npz")
    gt, anchors = golden_tensor(npz, "centerness_targets.gt"), golden_tensor(npz, "centerness_targets.anchors")
    assert_golden(centerness_targets(anchors, gt), npz, "centerness_targets.out", TOLERANCES["ops"])


def test_centerness_is_one_in_the_middle_and_zero_outside():
    anchors = torch.tensor([[4.0, 4, 6, 6], [20, 4, 22, 6], [0, 4, 2, 6]])
    box = torch.tensor([[0.0, 0, 10, 10]]).expand(3, 4)
    assert centerness_targets(anchors, box).tolist() == pytest.approx([1, 0, (1 / 9) ** 0.5])


@pytest.mark.parity
def test_contrastive_align_matches_the_recording():
    npz = load_golden("ops.npz")
    logits = golden_tensor(npz, "contrastive_align_loss.logits")
    loss = contrastive_align_loss(logits, golden_tensor(npz, "contrastive_align_loss.positive_map"))
    assert_golden(loss, npz, "contrastive_align_loss.loss", TOLERANCES["ops"])


def test_contrastive_align_without_pairs_is_zero():
    logits = torch.randn(1, 3, 4, requires_grad=True)
    loss = contrastive_align_loss(logits, torch.zeros(1, 3, 4, dtype=torch.bool))
    loss.backward()
    assert loss == 0 and logits.grad.eq(0).all()


def test_soft_cross_entropy_ignores_rows_without_targets():
    logits = torch.tensor([[0.0, 0.0], [5.0, 1.0]])
    targets = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert soft_cross_entropy(logits, targets).item() == pytest.approx(torch.tensor(2.0).log().item())


def first(population, number):
    return population[:number]


def test_anchors_are_filled_up_with_negatives_or_left_empty():
    is_positive = torch.zeros(2, 8, dtype=torch.bool)
    is_positive[0, [1, 4, 6]] = True
    is_positive[1, 3] = True
    chosen = choose_anchors(is_positive, 100, pad_with_zeros=False, sample=first)
    assert chosen.index.tolist() == [[1, 4, 6], [3, 0, 1]] and chosen.is_filled.all()
    chosen = choose_anchors(is_positive, 100, pad_with_zeros=True, sample=first)
    assert chosen.index[1, 0] == 3 and chosen.is_filled.tolist() == [[True] * 3, [True, False, False]]
    chosen = choose_anchors(is_positive, 2, pad_with_zeros=False)
    assert chosen.index.shape == (2, 2)
    assert is_positive[0, chosen.index[0]].all() and is_positive[1, chosen.index[1]].tolist() == [True, False]


def test_pairs_come_from_labels_between_images_and_from_phrases_within():
    own = torch.zeros(2, 2, 3, dtype=torch.bool)
    own[0, 0, 2] = True
    token_labels = torch.tensor([[[5, 6, -1], [6, 5, 5]]])
    pairs = pair_matrix(torch.tensor([[5, -100], [6, 5]]), token_labels, own)
    assert pairs.shape == (2, 2, 1, 2, 3)
    assert pairs[0, :, 0, 0].tolist() == own[0].float().tolist()
    assert pairs[0, :, 0, 1].tolist() == [[0, 1, 1], [0, 0, 0]]
    assert pairs[1, :, 0, 0].tolist() == [[0, 1, 0], [1, 0, 0]]
    assert pairs[1, :, 0, 1].sum() == 0


def test_empty_places_and_padding_do_not_change_the_shallow_loss():
    torch.manual_seed(0)
    images, texts = (torch.nn.functional.normalize(torch.randn(1, n, 8), dim=-1) for n in (3, 4))
    own = torch.tensor([[[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]]).bool()
    labels = torch.full((1, 3), -100), torch.full((1, 1, 4), -1)
    pairs = pair_matrix(*labels, own)
    scale = torch.ones(1)

    def loss(images, texts, filled, mask, pairs):
        return shallow_contrastive_loss(images, texts, filled, mask, pairs, scale)

    small = loss(images[:, :2], texts[:, :3], torch.ones(1, 2).bool(), torch.ones(1, 3), pairs[:, :2, ..., :3])
    filled, mask = torch.tensor([[True, True, False]]), torch.tensor([[1, 1, 1, 0]])
    torch.testing.assert_close(loss(images, texts, filled, mask, pairs), small)
    assert loss(images, texts, torch.ones(1, 3).bool(), mask, pairs) != small
