"""Targets and losses as the notes describe them, on the anchors of an 800x1066 picture (rows 25, 26, 40, 42-45, 78)."""

import inspect
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn_benchmark.modeling.anchors import AnchorGenerator
from maskrcnn_benchmark.modeling.box_coder import CenterBoxCoder
from maskrcnn_benchmark.modeling.rpn.inference import ATSSPostProcessor
from maskrcnn_benchmark.modeling.rpn.loss import ATSSLossComputation, ATSSLosses
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList

LEVELS = [(100, 136), (50, 68), (25, 34), (13, 17), (7, 9)]
NUM_ANCHORS = 18134
NUM_TOKENS = 256
BOXES = [
    [100.0, 120.0, 340.0, 500.0], [400.0, 80.0, 470.0, 150.0], [500.0, 300.0, 980.0, 760.0], [30.0, 600.0, 90.0, 700.0],
]  # fmt: skip
TOKENS = [[9], [3], [15], [31, 32]]


class Batch(NamedTuple):
    """One image with four boxes, and what a head might have predicted for it."""

    anchors: list[list[BoxList]]
    targets: list[BoxList]
    positive_map: Tensor
    box_cls: list[Tensor]
    box_regression: list[Tensor]
    centerness: list[Tensor]
    dot_product_logits: list[Tensor]
    text_masks: Tensor


@pytest.fixture(scope="module")
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)

    def levels(channels: int) -> list[Tensor]:
        return [torch.randn(1, channels, *size, generator=generator) for size in LEVELS]

    anchors = AnchorGenerator([(8 * stride,) for stride in (8, 16, 32, 64, 128)])
    target = BoxList(torch.tensor(BOXES), (1066, 800))
    target.add_field("labels", torch.ones(len(BOXES), dtype=torch.int64))
    positive_map = torch.zeros(len(BOXES), NUM_TOKENS)
    for row, tokens in enumerate(TOKENS):
        positive_map[row, tokens] = 1.0
    logits = [torch.randn(1, h * w, NUM_TOKENS, generator=generator) for h, w in LEVELS]
    masks = (torch.arange(NUM_TOKENS) < 42)[None].long()
    regression, centerness = [0.1 * level for level in levels(4)], levels(1)
    grid = anchors(ImageList(torch.zeros(1, 3, 800, 1088), [(800, 1066)]), centerness)
    return Batch(grid, [target], positive_map, levels(80), regression, centerness, logits, masks)


@pytest.fixture(scope="module")
def evaluator() -> ATSSLossComputation:
    return ATSSLossComputation(CenterBoxCoder(), use_classification=True)


def compute(evaluator: ATSSLossComputation, batch: Batch) -> ATSSLosses:
    return evaluator(
        batch.box_cls, batch.box_regression, batch.centerness, batch.targets, batch.anchors, None, batch.positive_map,
        None, None, None, batch.dot_product_logits, batch.text_masks, None,
    )  # fmt: skip


def test_call_signatures():
    """Rows 25 and 26: the arguments, in the order of the original, and seven losses."""
    losses = inspect.signature(ATSSLossComputation.forward).parameters
    assert list(losses)[1:] == [
        "box_cls", "box_regression", "centerness", "targets", "anchors", "captions", "positive_map", "token_logits",
        "proj_tokens", "contrastive_logits", "dot_product_logits", "text_masks", "shallow_img_emb_feats",
    ]  # fmt: skip
    assert ATSSLosses._fields == (
        "cls", "reg", "centerness", "token", "contrastive_align", "dot_product_token", "shallow_contrastive",
    )  # fmt: skip
    selector = inspect.signature(ATSSPostProcessor.forward).parameters
    assert list(selector)[1:] == [
        "box_regression", "centerness", "anchors", "box_cls", "token_logits", "dot_product_logits", "positive_map",
    ]  # fmt: skip


def test_targets(evaluator, batch):
    """Rows 40, 42 and 78: labels, boxes and tokens of 18134 anchors; the map of the boxes is the truth of both."""
    assigned = evaluator.prepare_targets(batch.targets, batch.anchors)
    assert assigned.labels.shape == (1, NUM_ANCHORS)
    positive = assigned.is_positive[0]
    assert 0 < positive.sum() < 9 * len(LEVELS) * len(BOXES)
    assert torch.equal(assigned.labels[0], positive.long())
    tokens = evaluator.token_targets(assigned, batch.positive_map, NUM_TOKENS)
    assert tokens.shape == (1, NUM_ANCHORS, NUM_TOKENS)
    unmatched = tokens[0, ~positive]
    assert torch.equal(unmatched[:, -1], torch.ones(len(unmatched))) and not unmatched[:, :-1].any()
    assert torch.equal(tokens[0, positive], batch.positive_map[assigned.box_rows[0, positive]])


def test_losses(evaluator, batch):
    """Rows 43 to 45, each loss written out."""
    losses = compute(evaluator, batch)
    assigned = evaluator.prepare_targets(batch.targets, batch.anchors)
    positive = assigned.is_positive[0]
    count = positive.sum()

    classes = torch.cat([level.flatten(2).transpose(1, 2) for level in batch.box_cls], dim=1)[0]
    assert classes.shape == (NUM_ANCHORS, 80)
    one_hot = F.one_hot(assigned.labels[0], 81)[:, 1:].float()
    torch.testing.assert_close(losses.cls, focal(classes, one_hot).sum() / count)

    logits = torch.cat(batch.dot_product_logits, dim=1)[0]
    tokens = evaluator.token_targets(assigned, batch.positive_map, NUM_TOKENS)[0]
    words = batch.text_masks[0].bool()
    expected = focal(logits, tokens)[:, words].sum() / count
    torch.testing.assert_close(losses.dot_product_token, expected)

    anchors = torch.cat([level.bbox for level in batch.anchors[0]])[positive]
    boxes = torch.tensor(BOXES)[assigned.box_rows[0, positive]]
    codes = torch.cat([level.flatten(2).transpose(1, 2) for level in batch.box_regression], dim=1)[0, positive]
    weights = centerness_of(anchors, boxes)
    giou = pairwise_giou(CenterBoxCoder().decode(codes, anchors), boxes)
    torch.testing.assert_close(losses.reg, 2.0 * ((1 - giou) * weights).sum() / weights.sum())
    center_logits = torch.cat([level.flatten() for level in batch.centerness])[positive]
    entropy = F.binary_cross_entropy_with_logits(center_logits, weights, reduction="sum")
    torch.testing.assert_close(losses.centerness, entropy / count)


def focal(logits: Tensor, targets: Tensor) -> Tensor:
    """alpha_t (1 - p_t)^2 times the binary cross-entropy, with alpha 0.25."""
    p = logits.sigmoid()
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = 0.25 * targets + 0.75 * (1 - targets)
    return alpha_t * (1 - p_t) ** 2 * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def centerness_of(anchors: Tensor, boxes: Tensor) -> Tensor:
    x, y = ((anchors[:, i] + anchors[:, i + 2]) / 2 for i in (0, 1))
    left, top, right, bottom = x - boxes[:, 0], y - boxes[:, 1], boxes[:, 2] - x, boxes[:, 3] - y
    across = torch.minimum(left, right) / torch.maximum(left, right)
    along = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return (across * along).sqrt()


def pairwise_giou(one: Tensor, other: Tensor) -> Tensor:
    """Generalised IoU of boxes (N, 4) row by row, areas without the last pixel."""
    inner = (torch.minimum(one[:, 2:], other[:, 2:]) - torch.maximum(one[:, :2], other[:, :2])).clamp(min=0).prod(1)
    union = (one[:, 2:] - one[:, :2]).prod(1) + (other[:, 2:] - other[:, :2]).prod(1) - inner
    outer = (torch.maximum(one[:, 2:], other[:, 2:]) - torch.minimum(one[:, :2], other[:, :2])).prod(1)
    return inner / union - (outer - union) / outer
