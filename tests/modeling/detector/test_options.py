"""Options of the configuration, through the whole detector: text encoders and masks, prompts, masked words, bodies."""

import pytest
import torch
from tiny_detector import (
    TEXT_DIM,
    assert_same_boxes,
    make_text_folder,
    positive_rows,
    random_images,
    scramble,
    target,
    tiny_config,
)

from maskrcnn_benchmark.modeling.detector import build_detection_model, disable_stochasticity
from maskrcnn_benchmark.text.mlm import IGNORED

FUSE, LANGUAGE = "MODEL.DYHEAD.FUSE_CONFIG", "MODEL.LANGUAGE_BACKBONE"
SIZES = ((70, 90), (64, 100))
CAPTIONS = ["red star. blue cup", "cup"]  # [CLS] red star . blue cup [SEP]
TOKENS = 48
MAP = {1: [1, 2], 2: [4, 5]}
CLIP = (
    *(f"{LANGUAGE}.MODEL_TYPE", "clip", "MODEL.CLIP.VOCAB_SIZE", 1318, "MODEL.CLIP.CONTEXT_LENGTH", TOKENS),
    *("MODEL.CLIP.WIDTH", TEXT_DIM, "MODEL.CLIP.LAYERS", 2, "MODEL.CLIP.HEADS", 4),
)
CONTRASTIVE = (
    *(f"{FUSE}.USE_DOT_PRODUCT_TOKEN_LOSS", False, f"{FUSE}.USE_CONTRASTIVE_ALIGN_LOSS", True),
    *(f"{FUSE}.USE_FUSED_FEATURES_DOT_PRODUCT", False),
)


def build(folder, *options):
    torch.manual_seed(0)
    model = scramble(build_detection_model(tiny_config(folder, *options)))
    with torch.no_grad():
        (model.rpn.head.bias0 if model.rpn.head.use_dot_product else model.rpn.head.cls_logits.bias).fill_(-2.0)
    return disable_stochasticity(model).eval()


def two_targets():
    targets = [target([[1, 2, 30, 40], [10, 10, 60, 60]], (90, 70), [1, 2]), target([[5, 5, 50, 50]], (100, 64))]
    for boxes, spans in zip(targets, ([[(0, 8)], [(10, 18)]], [[(0, 3)]]), strict=True):
        boxes.add_field("tokens_positive", spans)
        boxes.add_field("original_od_label", boxes.get_field("labels"))
        boxes.add_field("positive_map_for_od_labels", torch.zeros(TOKENS))
    return targets


def positive_map():
    return positive_rows([[1, 2], [4, 5], [1]], TOKENS)


@torch.no_grad()
def detect(model):
    return model.eval()(random_images(*SIZES), captions=CAPTIONS, positive_map=MAP)


def losses(model, greenlight=None):
    return model.train()(random_images(*SIZES), two_targets(), CAPTIONS, positive_map(), greenlight)


VARIANTS = {
    "GLIP-T(A)": (f"{FUSE}.EARLY_FUSE_ON", False, f"{FUSE}.USE_FUSED_FEATURES_DOT_PRODUCT", False),
    "unfused dot product": (f"{FUSE}.USE_FUSED_FEATURES_DOT_PRODUCT", False),
    "MHA-S": (f"{FUSE}.TYPE", "MHA-S"),
    "FILM": (f"{FUSE}.TYPE", "FILM"),
    "no fusion": (f"{FUSE}.TYPE", "NONE"),
    "separate": (f"{FUSE}.SEPARATE_BIDIRECTIONAL", True, f"{FUSE}.DO_LANG_PROJ_OUTSIDE_CHECKPOINT", True),
    "stable softmax": (f"{FUSE}.STABLE_SOFTMAX_2D", True),
    "mean of layers": (f"{LANGUAGE}.N_LAYERS", 2),
    "special tokens masked": (f"{LANGUAGE}.MASK_SPECIAL", True),
    "one-hot text": ("DATASETS.ONE_HOT", True, "MODEL.DYHEAD.NUM_CLASSES", 7),
    "prompt": (f"{FUSE}.ADD_LINEAR_LAYER", True),
    "token branch": (f"{FUSE}.USE_TOKEN_LOSS", True),
    "class branch": (f"{FUSE}.USE_CLASSIFICATION_LOSS", True),
    "shallow": (f"{FUSE}.USE_SHALLOW_CONTRASTIVE_LOSS", True),
    "contrastive align": CONTRASTIVE,
    "contrastive align and masked words": (*CONTRASTIVE, f"{FUSE}.MLM_LOSS", True),
    "masked words": (f"{FUSE}.MLM_LOSS", True),
    "clip": CLIP,
    "clip masked words": (*CLIP, f"{FUSE}.MLM_LOSS", True),
    "v2": ("MODEL.SWINT.VERSION", "v2", "MODEL.SWINT.LAYER_SCALE", 1),
    "vl": ("MODEL.SWINT.VERSION", "vl"),
    "v2_vl": ("MODEL.SWINT.VERSION", "v2_vl", "MODEL.SWINT.LAYER_SCALE", 1),
    "shallow on the body": (
        *("MODEL.SWINT.VERSION", "vl", f"{FUSE}.USE_BACKBONE_SHALLOW_CONTRASTIVE_LOSS", True),
        *("MODEL.FPN.RETURN_SWINT_FEATURE_BEFORE_FUSION", True),
    ),
    "stride 4": ("MODEL.BACKBONE.CONV_BODY", "SWINT-FPN", "MODEL.RPN.ANCHOR_STRIDE", (4, 8, 16, 32, 64)),
    "pyramid extras": (
        *("MODEL.FPN.USE_GN", True, "MODEL.FPN.USE_RELU", True, "MODEL.FPN.USE_SPP", True, "MODEL.FPN.USE_PAN", True),
    ),
    "plain tower": (
        *("MODEL.DYHEAD.USE_DFCONV", False, "MODEL.DYHEAD.USE_DYRELU", False, "MODEL.DYHEAD.USE_DYFUSE", False),
        *("MODEL.DYHEAD.USE_GN", False),
    ),
    "fused features returned": ("MODEL.RPN.RETURN_FUSED_FEATURES", True),
    "recomputation": (
        *("MODEL.DYHEAD.USE_CHECKPOINT", True, "MODEL.BACKBONE.USE_CHECKPOINT", True),
        *(f"{LANGUAGE}.USE_CHECKPOINT", True),
    ),
}  # fmt: skip


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_variants_detect_and_learn(text_folder, options):
    """Detections and losses are finite and the same twice, and the same with the text padded to its full length."""
    model = build(text_folder, *options)
    detections = detect(model)
    assert any(len(boxes) for boxes in detections)
    assert_same_boxes(detections, detect(model), atol=0)
    whole = build(text_folder, *options, f"{LANGUAGE}.TRIM_PADDING", False)
    whole.load_state_dict(model.state_dict())
    assert_same_boxes(detect(whole), detections, atol=1e-4)
    if model.mlm or any("SHALLOW" in str(option) for option in options):
        first = losses(model)  # these draw words and anchors
    else:
        first, second = losses(model), losses(model)
        assert all(torch.equal(loss, second[name]) for name, loss in first.items())
    assert all(loss.isfinite() for loss in first.values())
    sum(first.values()).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.RPN_ONLY", False),
        ("MODEL.RPN.FORCE_BOXES", True),
        ("MODEL.MASK_ON", True),
        ("MODEL.KEYPOINT_ON", True),
    ],
)
def test_a_second_stage_is_refused(text_folder, key, value):
    """It is not left out in silence."""
    with pytest.raises(ValueError, match=f"{key}.*second stage"):
        build_detection_model(tiny_config(text_folder, key, value))


def test_roberta_without_a_network(tmp_path):
    model = build(make_text_folder(tmp_path, "roberta", pad_token_id=0))
    assert type(model.language_backbone.body.model).__name__ == "RobertaModel"
    assert any(len(boxes) for boxes in detect(model))
    sum(losses(model).values()).backward()


def test_special_tokens_are_masked(text_folder):
    """Only words are left; the text encoder itself still sees [CLS] and [SEP]."""
    plain, masked = build(text_folder), build(text_folder, f"{LANGUAGE}.MASK_SPECIAL", True)
    masked.load_state_dict(plain.state_dict())
    with torch.no_grad():
        before, after = plain.encode_text(CAPTIONS), masked.encode_text(CAPTIONS)
    assert before.masks.tolist() == [[1] * 7, [1, 1, 1, 0, 0, 0, 0]]
    assert after.masks.tolist() == [[0, 1, 1, 1, 1, 1, 0], [0, 1, 0, 0, 0, 0, 0]]
    assert torch.equal(before.hidden, after.hidden) and torch.equal(before.embedded, after.embedded)


def test_a_caption_without_words_is_finite_when_special_tokens_are_masked(text_folder):
    for options in ((), CLIP):
        model = build(text_folder, f"{LANGUAGE}.MASK_SPECIAL", True, *options)
        with torch.no_grad():
            (boxes,) = model(random_images(SIZES[0]), captions=[""], positive_map={1: [0]})
        assert len(boxes) and boxes.bbox.isfinite().all()


def test_one_hot_text_shows_the_first_columns(text_folder):
    model = build(text_folder, "DATASETS.ONE_HOT", True, "MODEL.DYHEAD.NUM_CLASSES", 7)
    with torch.no_grad():
        text = model.encode_text(CAPTIONS)
    assert text.masks.tolist() == [[1] * 7 + [0] * (TOKENS - 7)] * 2
    both = build(text_folder, "DATASETS.ONE_HOT", True, f"{LANGUAGE}.MASK_SPECIAL", True)
    assert both.encode_text(CAPTIONS).masks[0].tolist() == [0, 1, 1, 1, 1, 1, 0] + [0] * (TOKENS - 7)


def test_learnt_prompt_is_added_to_every_position(text_folder):
    """Row t of the table is added to word t, in `hidden` and `embedded`; a new table changes nothing."""
    plain, prompted = build(text_folder), build(text_folder, f"{FUSE}.ADD_LINEAR_LAYER", True)
    fresh = build_detection_model(tiny_config(text_folder, f"{FUSE}.ADD_LINEAR_LAYER", True))
    table = fresh.rpn.tunable_linear.weight
    assert table.shape == (1000, TEXT_DIM) and not table.any()
    plain.load_state_dict(prompted.state_dict(), strict=False)
    text = plain.encode_text(CAPTIONS)
    given = text.hidden.clone()
    summed, embedding = prompted.rpn.prepare_text(text)
    rows = prompted.rpn.tunable_linear.weight[:7]
    torch.testing.assert_close(summed.hidden, text.hidden + rows)
    torch.testing.assert_close(summed.embedded, text.embedded + rows)
    assert torch.equal(embedding, summed.embedded) and torch.equal(text.hidden, given)
    with torch.no_grad():
        ours = detect(prompted)
        features = plain.encode_image(random_images(*SIZES))
        assert_same_boxes(ours, plain.detect(features, summed, MAP), atol=1e-5)
        prompted.rpn.tunable_linear.weight.zero_()
        assert_same_boxes(detect(prompted), detect(plain), atol=0)


def test_prompt_tuning_trains_the_prompt_alone(text_folder):
    frozen = [
        item for part in ("BACKBONE", "FPN", "RPN", "LANGUAGE_BACKBONE") for item in (f"MODEL.{part}.FREEZE", True)
    ]
    model = build(text_folder, f"{FUSE}.ADD_LINEAR_LAYER", True, *frozen)
    sum(losses(model).values()).backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {"rpn.tunable_linear.weight"}
    gradient = model.rpn.tunable_linear.weight.grad
    assert gradient[:7].abs().sum(1).min() > 0 and not gradient[TOKENS:].any()


@pytest.mark.parametrize("branch", ["USE_CONTRASTIVE_ALIGN_LOSS", ""])
def test_prompt_without_a_branch_that_reads_it(text_folder, branch):
    options = (f"{FUSE}.ADD_LINEAR_LAYER", True, f"{FUSE}.USE_DOT_PRODUCT_TOKEN_LOSS", False)
    model = build(text_folder, *options)
    with pytest.raises(ValueError, match="ADD_LINEAR_LAYER needs the dot-product or the contrastive align loss"):
        detect(model)


def corruptions(model, monkeypatch) -> list:
    calls, corrupt = [], model.corrupt
    monkeypatch.setattr(model, "corrupt", lambda *args: calls.append((args, corrupt(*args))) or calls[-1][1])
    return calls


@pytest.mark.parametrize("clip", [False, True])
def test_masked_words_are_guessed_in_training_only(text_folder, monkeypatch, clip):
    model = build(text_folder, f"{FUSE}.MLM_LOSS", True, *(CLIP if clip else ()))
    calls = corruptions(model, monkeypatch)
    detect(model)
    assert not calls
    seen = {}
    handle = model.rpn.head.mlm_head.register_forward_hook(
        lambda _m, inputs, output: seen.update(x=inputs[0], y=output)
    )
    torch.manual_seed(4)
    result = losses(model)
    handle.remove()
    names = ["loss_reg", "loss_centerness", "mlm_loss", "loss_cls", "loss_dot_product_token"]
    assert list(result) == names and len(calls) == 1
    (ids, greenlight), (corrupted, labels) = calls[0]
    assert greenlight is None and ids.shape == labels.shape == (2, TOKENS)
    assert torch.equal(corrupted[labels == IGNORED], ids[labels == IGNORED])
    scored = labels != IGNORED
    assert scored.any() and torch.equal(labels[scored], ids[scored])
    expected = torch.nn.functional.cross_entropy(seen["y"][scored], labels[scored])
    torch.testing.assert_close(result["mlm_loss"], expected)


@pytest.mark.parametrize(("only_positives", "masked"), [(True, [1, 2]), (False, None)])
def test_words_that_may_be_masked(text_folder, monkeypatch, only_positives, masked):
    """With the map, only its ones are scored and -1 stays as it is; without, all words but padding take part."""
    options = (f"{FUSE}.MLM_LOSS", True, f"{FUSE}.MLM_LOSS_FOR_ONLY_POSITIVES", only_positives)
    model = build(text_folder, *options)
    calls = corruptions(model, monkeypatch)
    greenlight = torch.full((2, 256), -1.0)
    greenlight[:, 1:3], greenlight[:, 4] = 1, 0
    torch.manual_seed(0)
    model.train()
    for _ in range(60):
        model.encode_text(CAPTIONS, greenlight)
    scored = torch.stack([(labels != IGNORED).any(0) for _, (_, labels) in calls]).any(0).nonzero().flatten().tolist()
    changed = torch.stack([(args[0] != ids).any(0) for args, (ids, _) in calls]).any(0).nonzero().flatten().tolist()
    assert scored == (masked or list(range(7)))
    assert changed == ([1, 2, 4] if only_positives else list(range(7)))


def test_no_masked_word_gives_no_loss(text_folder):
    model = build(text_folder, f"{FUSE}.MLM_LOSS", True)
    result = losses(model, torch.full((2, 256), -1.0))
    assert result["mlm_loss"] == 0
    sum(result.values()).backward()


def test_masked_words_train_the_text_under_a_frozen_head(text_folder):
    """Prompt tuning of the first kind: the head is fixed, and the text learns from the masked words too."""
    model = build(text_folder, f"{FUSE}.MLM_LOSS", True, "MODEL.RPN.FREEZE", True)
    torch.manual_seed(4)
    result = losses(model)
    assert result["mlm_loss"] > 0
    result["mlm_loss"].backward()
    assert model.language_backbone.body.model.embeddings.word_embeddings.weight.grad.any()
    assert all(parameter.grad is None for parameter in model.rpn.parameters())


def test_selection_without_a_dot_product(text_folder):
    """Class logits are the scores then: labels from 1 to NUM_CLASSES - 1, whatever the positive map says."""
    model = build(text_folder, *CONTRASTIVE, "MODEL.DYHEAD.NUM_CLASSES", 4)
    labels = torch.cat([boxes.get_field("labels") for boxes in detect(model)])
    assert set(labels.tolist()) == {1, 2, 3}


def test_selection_by_the_token_branch(text_folder):
    """Without dot product its columns are the tokens of the positive map, at any length of the text."""
    model = build(text_folder, f"{FUSE}.USE_DOT_PRODUCT_TOKEN_LOSS", False, f"{FUSE}.USE_TOKEN_LOSS", True)
    with torch.no_grad():
        model.rpn.head.token_logits.bias.zero_()
        model.rpn.head.token_logits.bias[5] = -50.0
        one = model.eval()(random_images(*SIZES), captions=CAPTIONS, positive_map={1: [1], 2: [5], 3: [40]})
    assert set(torch.cat([boxes.get_field("labels") for boxes in one]).tolist()) == {1, 3}


def test_one_hot_scores_count_positions_beyond_the_caption(text_folder):
    """The original takes as many columns as there are labels, and its text always has all positions."""
    model = build(text_folder, "MODEL.DYHEAD.SCORE_AGG", "ONEHOT", "MODEL.ATSS.INFERENCE_TH", 0.0)
    with torch.no_grad():
        found = model(random_images(*SIZES), captions=["cup", "cup"], positive_map={i: [1] for i in range(1, 21)})
    assert torch.cat([boxes.get_field("labels") for boxes in found]).max() > 3  # [CLS] cup [SEP]


@pytest.mark.parametrize("others", [(f"{FUSE}.USE_DOT_PRODUCT_TOKEN_LOSS", False), CONTRASTIVE])
def test_token_branch_without_dot_product_has_all_positions(text_folder, others):
    """Its logits have all positions even where the text ends earlier; those beyond count neither way."""
    model = build(text_folder, *others, f"{FUSE}.USE_TOKEN_LOSS", True)
    before = losses(model)["loss_token"]
    with torch.no_grad():
        model.rpn.head.token_logits.bias[7:] += 30.0  # the longest caption has 7 tokens
    torch.testing.assert_close(losses(model)["loss_token"], before)
