import json

import numpy as np
import pytest
import torch
from golden_tools import TOLERANCES, assert_golden, golden_path, golden_tensor, load_golden
from loss_batch import evaluator, run, small_batch

from maskrcnn_benchmark.config import cfg
from maskrcnn_benchmark.modeling.anchors import AnchorGenerator
from maskrcnn_benchmark.modeling.box_coder import CenterBoxCoder
from maskrcnn_benchmark.modeling.rpn.loss import (
    LossWeights,
    ShallowSettings,
    make_atss_loss_evaluator,
)
from maskrcnn_benchmark.modeling.rpn.span_tokens import SpanTokens
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList

GLIP_SIZES = ((64,), (128,), (256,), (512,), (1024,))
TRAINING = "train_glip_Swin_T_O365_GoldG"


def recorded_batch():
    npz = load_golden(f"{TRAINING}.npz")
    sizes, maps = [(320, 416), (320, 384)], [npz[f"head.centerness.p{level}"].shape[-2:] for level in range(3, 8)]
    images = ImageList(torch.zeros(2, 3, 320, 416), sizes)
    anchors = AnchorGenerator(GLIP_SIZES)(images, [torch.zeros(1, 1, *hw) for hw in maps])
    targets = []
    for i, (height, width) in enumerate(sizes):
        target = BoxList(golden_tensor(npz, f"target{i}.boxes"), (width, height))
        target.add_field("labels", golden_tensor(npz, f"target{i}.labels"))
        targets.append(target)
    return npz, targets, anchors, maps


@pytest.mark.parity
def test_assignment_of_the_recorded_batch():
    npz, targets, anchors, _ = recorded_batch()
    criterion = evaluator()
    assigned = criterion.prepare_targets(targets, anchors)
    token_targets = criterion.token_targets(assigned, golden_tensor(npz, "positive_map"), 256)
    grid = torch.cat([level.bbox for level in anchors[0]])
    for i, first_row in enumerate((0, 5)):
        positive = assigned.is_positive[i].nonzero()[:, 0]
        assert len(grid) == npz[f"atss{i}.n_anchor"]
        assert positive.tolist() == npz[f"atss{i}.pos_anchor"].tolist()
        assert assigned.labels[i, positive].tolist() == npz[f"atss{i}.pos_label"].tolist()
        rows = assigned.box_rows[i, positive]
        assert (rows - first_row).tolist() == npz[f"atss{i}.pos_gt_index"].tolist()
        codes = CenterBoxCoder().encode(assigned.boxes[rows], grid[positive])
        assert_golden(codes, npz, f"atss{i}.pos_reg_target", TOLERANCES["ops"])
        pairs = token_targets[i] * assigned.is_positive[i, :, None]
        assert np.array_equal(pairs.nonzero(), npz[f"atss{i}.token_targets_sparse(anchor,token)_positives"])
        negatives = token_targets[i][~assigned.is_positive[i]]
        assert negatives[0].nonzero()[:, 0].tolist() == npz[f"atss{i}.token_target_negatives_row_nonzero"].tolist()
        assert token_targets[i].sum() == npz[f"atss{i}.token_target_sum"].item()


@pytest.mark.parity
def test_centerness_loss_of_the_recorded_outputs():
    npz, targets, anchors, maps = recorded_batch()
    centerness = [golden_tensor(npz, f"head.centerness.p{level}") for level in range(3, 8)]
    losses = evaluator()(None, [torch.zeros(2, 4, *hw) for hw in maps], centerness, targets, anchors)
    expected = json.loads(golden_path(f"{TRAINING}.json").read_text())["losses"]
    assert losses.centerness.item() == pytest.approx(expected["loss_centerness"], rel=TOLERANCES["loss"].rtol)
    assert losses.cls == 0 and losses[3:] == (None,) * 4


def test_images_without_boxes_are_negatives():
    batch = small_batch()
    losses = run(evaluator(use_classification=True), batch)
    total = losses.cls + losses.reg + losses.centerness + losses.dot_product_token
    total.backward()
    outputs = batch[0]
    assert total.isfinite() and losses.reg > 0 and losses.dot_product_token > 0
    for name, levels in outputs.items():
        for level in levels:
            assert level.grad.isfinite().all()
            empty = level.grad[1]
            assert empty.ne(0).any() == (name in ("box_cls", "dot_product_logits"))


def test_a_batch_without_boxes_has_losses_with_gradients():
    batch = small_batch((0, 0))
    losses = run(evaluator(), batch)
    assert losses.reg == 0 and losses.centerness == 0 and losses.dot_product_token > 0
    (losses.reg + losses.centerness + losses.dot_product_token).backward()
    for levels in (batch[0]["box_regression"], batch[0]["centerness"]):
        assert all(level.grad.eq(0).all() for level in levels)


def test_an_image_counts_by_its_own_positives():
    """The loss of a batch is the mean of those of its images, weighted by their positives."""
    both = small_batch((2, 1))
    outputs, targets, anchors, positive_map, mask = both
    criterion = evaluator()
    singles = []
    for i, rows in enumerate((slice(0, 2), slice(2, 3))):
        one = {name: [level[i : i + 1] for level in levels] for name, levels in outputs.items()}
        singles.append(
            run(criterion, (one, targets[i : i + 1], anchors[i : i + 1], positive_map[rows], mask[i : i + 1]))
        )
    counts = [criterion.prepare_targets([target], anchors[:1]).is_positive.sum() for target in targets]
    losses = run(criterion, both)
    for name in ("centerness", "dot_product_token"):
        expected = sum(getattr(one, name) * n for one, n in zip(singles, counts, strict=True)) / sum(counts)
        torch.testing.assert_close(getattr(losses, name), expected)


@pytest.mark.parametrize("is_on", [True, False])
def test_no_object_on_the_last_token(is_on):
    batch = small_batch()
    criterion = evaluator(no_object_on_last_token=is_on)
    masked = run(criterion, batch).dot_product_token
    outputs, targets, anchors, positive_map, mask = batch
    visible = run(criterion, (outputs, targets, anchors, positive_map, torch.ones_like(mask))).dot_product_token
    plain = run(evaluator(no_object_on_last_token=False), batch).dot_product_token
    torch.testing.assert_close(masked, plain)  # behind the mask the last column does not count
    assigned = criterion.prepare_targets(targets, anchors)
    column = criterion.token_targets(assigned, positive_map, mask.shape[1])[..., -1]
    assert torch.equal(column == 1, ~assigned.is_positive if is_on else torch.zeros_like(assigned.is_positive))
    assert visible > masked


def test_a_map_wider_than_the_text_loses_padding_only():
    batch = small_batch()
    outputs, targets, anchors, positive_map, mask = batch
    wide = torch.nn.functional.pad(positive_map, (0, 250))
    torch.testing.assert_close(
        run(evaluator(), (outputs, targets, anchors, wide, mask)).dot_product_token,
        run(evaluator(), batch).dot_product_token,
    )


def test_unused_class_logits_cannot_spoil_the_sum():
    batch = small_batch()
    batch[0]["box_cls"] = [torch.full_like(level, float("nan")) for level in batch[0]["box_cls"]]
    assert run(evaluator(), batch).cls == 0
    batch[0]["box_cls"] = None
    assert run(evaluator(), batch).cls == 0
    with pytest.raises(ValueError, match="class logits"):
        run(evaluator(use_classification=True), batch)


def test_losses_are_single_precision_under_autocast():
    outputs, *rest = small_batch(requires_grad=False)
    halves = {name: [level.bfloat16() for level in levels] for name, levels in outputs.items()}
    rounded = {name: [level.float() for level in levels] for name, levels in halves.items()}
    with torch.autocast("cpu", torch.bfloat16):
        actual = run(evaluator(use_classification=True), (halves, *rest))
    expected = run(evaluator(use_classification=True), (rounded, *rest))
    for a, b in zip(actual, expected, strict=True):
        assert (a is None and b is None) or (a.dtype == torch.float32 and torch.equal(a, b))


def test_weights_and_token_logits():
    outputs, targets, anchors, positive_map, mask = small_batch()
    batch, tokens = mask.shape
    outputs["token_logits"] = [
        level.transpose(1, 2).reshape(batch, tokens, *centerness.shape[2:])
        for level, centerness in zip(outputs["dot_product_logits"], outputs["centerness"], strict=True)
    ]
    plain = run(evaluator(), (outputs, targets, anchors, positive_map, mask))
    torch.testing.assert_close(plain.token, plain.dot_product_token)
    weighted = run(
        evaluator(weights=LossWeights(reg=1.0, token=3.0, dot_product_token=0.5)),
        (outputs, targets, anchors, positive_map, mask),
    )
    torch.testing.assert_close(weighted.reg * 2, plain.reg)
    torch.testing.assert_close(weighted.token / 3, plain.token)
    torch.testing.assert_close(weighted.dot_product_token * 2, plain.dot_product_token)


def test_a_box_of_label_zero_trains_the_words_only():
    outputs, targets, anchors, positive_map, mask = small_batch((2,))
    targets[0].bbox = torch.tensor([[2.0, 4, 40, 40], [52, 20, 92, 60]])
    without, both = [targets[0][[0]]], targets
    both[0].add_field("labels", torch.tensor([1, 0]))
    assert evaluator().prepare_targets(both, anchors).is_positive.sum() > (
        evaluator().prepare_targets(without, anchors).is_positive.sum()
    )
    one = run(evaluator(), (outputs, without, anchors, positive_map[:1], mask))
    two = run(evaluator(), (outputs, both, anchors, positive_map, mask))
    assert one.reg == two.reg and one.centerness == two.centerness
    assert one.dot_product_token != two.dot_product_token


@pytest.mark.parametrize(
    ("positive_map", "message"),
    [
        (None, "need a positive_map"),
        (torch.zeros(2, 6), "each of the 3 boxes.*2, 6"),
        (torch.zeros(3, 4), "4 columns, but the text 6"),
    ],
)
def test_bad_positive_maps_are_named(positive_map, message):
    outputs, targets, anchors, _, mask = small_batch()
    with pytest.raises(ValueError, match=message):
        run(evaluator(), (outputs, targets, anchors, positive_map, mask))


class FakeTokenizer:
    """One token for every character, after a first special one."""

    def __call__(self, captions, **_):
        self.captions = captions
        return self

    def char_to_token(self, batch, char):
        caption = self.captions[batch]
        return char + 1 if char < len(caption) and caption[char] != " " else None


def test_span_tokens():
    _, targets, *_ = small_batch((2, 0, 1))
    targets[0].add_field("tokens_positive", [[(0, 2), (3, 4)], [(90, 95)]])
    targets[2].add_field("tokens", [[(1, 4)]])
    found = SpanTokens(FakeTokenizer())(["ab c", "", "x yz"], targets, 4)
    assert found.int().tolist() == [[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    with pytest.raises(ValueError, match="3 images need as many captions"):
        SpanTokens(FakeTokenizer())(None, targets, 4)
    del targets[2].extra_fields["tokens"]
    with pytest.raises(ValueError, match="image 2 need the field 'tokens_positive'"):
        SpanTokens(FakeTokenizer())(["ab c", "", "x yz"], targets, 4)


def contrastive_batch():
    outputs, targets, anchors, positive_map, mask = small_batch((2, 1))
    for target, spans in zip(targets, ([[(0, 1)], [(2, 4)]], [[(0, 2)]]), strict=True):
        target.add_field("tokens_positive", spans)
    outputs["contrastive_logits"] = outputs.pop("dot_product_logits")
    return outputs, targets, anchors, mask


def test_contrastive_align_prefers_the_right_tokens():
    outputs, targets, anchors, mask = contrastive_batch()
    criterion = evaluator(span_tokens=SpanTokens(FakeTokenizer()))
    arguments = dict(targets=targets, anchors=anchors, captions=["a bc", "ab"], text_masks=mask)
    before = criterion(**outputs, **arguments).contrastive_align
    assigned = criterion.prepare_targets(targets, anchors)
    table = torch.tensor([[0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0], [0, 1, 1, 0, 0, 0]])
    pairs = assigned.look_up(table, torch.zeros(6, dtype=torch.int64)).split([96, 24], dim=1)
    outputs["contrastive_logits"] = [
        level + 5 * pair for level, pair in zip(outputs["contrastive_logits"], pairs, strict=True)
    ]
    assert criterion(**outputs, **arguments).contrastive_align < before
    with pytest.raises(ValueError, match="span_tokens"):
        evaluator()(**outputs, **arguments)


@pytest.mark.parametrize("source", ["fpn", "body"])
@pytest.mark.parametrize("pad_with_zeros", [False, True])
@pytest.mark.parametrize("max_positives", [100, 3])
def test_shallow_contrastive_trains_its_projections(source, pad_with_zeros, max_positives):
    outputs, targets, anchors, mask = contrastive_batch()
    del outputs["contrastive_logits"]
    targets[0].add_field("original_od_label", torch.tensor([5, 6]))
    targets[0].add_field("positive_map_for_od_labels", torch.tensor([-1.0, 5, -1, 6, 6, -1]), per_box=False)
    settings = ShallowSettings(source, 8, 16, 4, max_positives=max_positives, pad_with_zeros=pad_with_zeros)
    criterion = evaluator(span_tokens=SpanTokens(FakeTokenizer()), shallow=settings)
    features = [torch.randn(2, h * w, 8) for h, w in ((8, 12), (4, 6))]
    losses = criterion(
        **outputs,
        targets=targets,
        anchors=anchors,
        captions=["a bc", "ab"],
        text_masks=mask,
        proj_tokens=torch.randn(2, 6, 16),
        shallow_img_emb_feats=features if source == "fpn" else torch.randn(2, 8, 4, 6),
    )
    losses.shallow_contrastive.backward()
    assert losses.shallow_contrastive > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in criterion.parameters())
    assert set(criterion.state_dict()) == {
        "shallow_log_scale",
        "shallow_contrastive_projection_image.weight",
        "shallow_contrastive_projection_image.bias",
        "shallow_contrastive_projection_text.weight",
        "shallow_contrastive_projection_text.bias",
    }


def test_configuration():
    config = cfg.clone()
    config.merge_from_list(["MODEL.DYHEAD.FUSE_CONFIG.DOT_PRODUCT_TOKEN_LOSS_WEIGHT", 0.5, "MODEL.ATSS.TOPK", 7])
    config.merge_from_list(["MODEL.RPN.ASPECT_RATIOS", (1.0,), "MODEL.RPN.SCALES_PER_OCTAVE", 2])
    criterion = make_atss_loss_evaluator(config, CenterBoxCoder())
    assert criterion.weights == LossWeights(2.0, 1.0, 1.0, 0.5, 1.0)
    assert criterion.topk == 14 and criterion.no_object_on_last_token and not criterion.use_classification
    assert not criterion.state_dict()
