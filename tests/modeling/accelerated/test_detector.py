"""The whole accelerated detector against the plain one: on the CPU by its definitions, on a GPU by its kernels."""

import pickle
from copy import deepcopy

import pytest
import tiny_detector
import torch

from maskrcnn_benchmark.modeling.accelerated.inference import (
    AcceleratedDetector,
    float32_products,
    token_matrices,
    why_not_accelerated,
)
from maskrcnn_benchmark.modeling.accelerated.precision import find_precision
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.modeling.detector.acceleration import Acceleration
from maskrcnn_benchmark.modeling.detector.detect_later import detect_later
from maskrcnn_benchmark.modeling.postprocess.token_scores import build_token_map
from maskrcnn_benchmark.structures.image_list import to_image_list

WIDER = (
    *("MODEL.SWINT.EMBED_DIM", 16, "MODEL.SWINT.NUM_HEADS", (1, 2, 4, 8)),
    *("MODEL.SWINT.OUT_CHANNELS", (16, 32, 64, 128), "MODEL.ATSS.INFERENCE_TH", 0.0),
)
NARROW_HEADS = ("MODEL.SWINT.NUM_HEADS", (2, 4, 4, 8))  # 8 and 16 channels each
PROMPT_TUNING = ("MODEL.DYHEAD.FUSE_CONFIG.ADD_LINEAR_LAYER", True)
CAPTIONS = ["red star. blue cup", "green tree"]
MAPS = [{1: [1, 2], 2: [4]}, {3: [1, 2]}]
GLIP_T, GLIP_A = "glip_Swin_T_O365_GoldG", "glip_A_Swin_T_O365"


@pytest.fixture
def build(tmp_path):
    """`build(*options, base=...)`: a small detector in eval mode."""
    folder = tiny_detector.make_text_folder(tmp_path / "text")

    def build(*options, base=GLIP_T):
        torch.manual_seed(0)
        model = build_detection_model(tiny_detector.tiny_config(folder, *WIDER, *options, base=base))
        return tiny_detector.scramble(model, scale=0.1).eval()

    return build


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def images_of(*sizes, seed=1):
    return tiny_detector.random_images(*sizes, seed=seed)


@pytest.mark.parametrize(
    ("base", "options"), [(GLIP_T, ()), (GLIP_A, ()), (GLIP_T, PROMPT_TUNING), (GLIP_T, NARROW_HEADS)]
)
@torch.no_grad()
def test_definitions_equal_the_plain_detector(build, base, options):
    model, images = build(*options, base=base), images_of((60, 90), (64, 70))
    assert why_not_accelerated(model) is None
    accelerated = AcceleratedDetector(model, find_precision("fp32"))
    expected = model(images, captions=CAPTIONS, positive_map=MAPS)
    tokens = model.tokenize(CAPTIONS, trim=True)
    text, embedding = model.rpn.prepare_text(accelerated.encode_tokens(tokens.input_ids, tokens.attention_mask))
    visual, shape = accelerated.encode_images(images.tensors)
    started = accelerated.start_detection(visual, shape, images.image_sizes, text, embedding, MAPS)
    found = started.boxes()
    assert min(map(len, found)) > 5
    tiny_detector.assert_same_boxes(found, expected)
    tiny_detector.assert_same_boxes(started.boxes_later()(), expected)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("MODEL.DYHEAD.FUSE_CONFIG.TYPE", "FILM"), "head: its tower has a FilmFusion"),
        (("MODEL.DYHEAD.FUSE_CONFIG.TYPE", "MHA-S"), "head: its fusion is not MHA-B"),
        (("MODEL.DYHEAD.USE_DFCONV", False), "head: its convolutions are not deformable"),
        (("MODEL.DYHEAD.SCORE_AGG", "MAX"), "SCORE_AGG 'MAX'"),
        (("MODEL.SWINT.VERSION", "v2"), "image encoder"),
    ],
)
def test_what_cannot_be_accelerated_says_why(build, options, reason):
    assert reason in why_not_accelerated(build(*options))


def run_accelerated(model, images, positive_map=MAPS, precision="fp32"):
    accelerated = AcceleratedDetector(model, find_precision(precision))
    tokens = model.tokenize(CAPTIONS, trim=True)
    text, embedding = model.rpn.prepare_text(accelerated.encode_tokens(tokens.input_ids, tokens.attention_mask))
    visual, shape = accelerated.encode_images(images.tensors)
    return accelerated.start_detection(visual, shape, images.image_sizes, text, embedding, positive_map).boxes()


def test_autocast_outside_changes_nothing(build):
    model, images = build(), images_of((60, 90), (64, 70))
    expected = run_accelerated(model, images)
    with torch.autocast("cpu", torch.bfloat16):
        found = run_accelerated(model, images)
    for boxes, others in zip(found, expected, strict=True):
        assert torch.equal(boxes.bbox, others.bbox)


@pytest.mark.parametrize("options", [(), PROMPT_TUNING])
def test_results_carry_no_gradients(build, options):
    found = run_accelerated(build(*options), images_of((60, 90), (64, 70)))
    assert not any(boxes.bbox.requires_grad or boxes.get_field("scores").requires_grad for boxes in found)


@torch.no_grad()
def test_a_token_map_is_as_good_as_positive_maps(build):
    model, images = build(), images_of((60, 90), (64, 70))
    for maps in (MAPS, MAPS[0]):
        expected = run_accelerated(model, images, maps)
        found = run_accelerated(model, images, build_token_map(maps, 9))
        tiny_detector.assert_same_boxes(found, expected)


@pytest.mark.parametrize("name", ["tf32", "fp32"])
def test_switches_of_float32_products_are_restored(name):
    """PyTorch raises where its older switches are read after its newer ones were set."""
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    precision, before = find_precision(name), (matmul.fp32_precision, convolution.fp32_precision)
    try:
        matmul.fp32_precision, convolution.fp32_precision = "tf32", "ieee"
        with float32_products(precision):
            assert (matmul.fp32_precision, convolution.fp32_precision) == (precision.dot, precision.dot)
        assert (matmul.fp32_precision, convolution.fp32_precision) == ("tf32", "ieee")
    finally:
        matmul.fp32_precision, convolution.fp32_precision = before


def test_copies_of_a_model_prepare_weights_of_their_own():
    acceleration = Acceleration(find_precision("fp16"), use_graphs=False)
    acceleration._detector, acceleration._is_checked = (x for x in (1, 2)), True  # like a recording, not to be copied
    for copied in (deepcopy(acceleration), pickle.loads(pickle.dumps(acceleration))):
        assert copied.precision == acceleration.precision and not copied.use_graphs
        assert copied._detector is None and not copied._is_checked
    assert acceleration._is_checked


def test_a_failure_to_prepare_is_not_taken_for_an_answer(monkeypatch):
    def fail(model):
        raise MemoryError

    model = type("Model", (), {"device": torch.device("cuda")})()
    acceleration = Acceleration(find_precision("fp16"))
    monkeypatch.setattr(acceleration, "_make", fail)
    for _ in range(2):
        with pytest.raises(MemoryError):
            acceleration.detector(model)


@torch.no_grad()
def test_numbers_that_are_not_finite_are_reported(build):
    model, images = build(), images_of((60, 90))
    accelerated = AcceleratedDetector(model, find_precision("fp32"))
    text, embedding = model.rpn.prepare_text(model.encode_text(CAPTIONS[:1]))
    visual, shape = accelerated.encode_images(images.tensors)
    visual[0, 3, 0] = torch.nan
    started = accelerated.start_detection(visual, shape, images.image_sizes, text, embedding, MAPS[0])
    for collect in (started.boxes, started.boxes_later()):
        with pytest.raises(FloatingPointError, match="fp32 gave numbers that are not finite"):
            collect()


def test_token_matrices():
    matrix, labels = token_matrices([{7: [1, 2], 3: [0]}, {1: [2, 2]}], 4, aggregation="MEAN", device="cpu")
    assert matrix.shape == (2, 4, 16) and labels.shape == (2, 16)
    assert labels[0, :2].tolist() == [3, 7] and not labels[0, 2:].any() and labels[1, 0] == 1
    assert matrix[0, :, 0].tolist() == [1, 0, 0, 0] and matrix[0, :, 1].tolist() == [0, 1, 1, 0]
    assert matrix[1, :, 0].tolist() == [0, 0, 2, 0] and not matrix[:, :, 2:].any()


def test_on_a_cpu_the_precision_changes_nothing(build):
    model, images = build(), images_of((60, 90))
    with torch.no_grad():
        expected = model(images, captions=CAPTIONS[:1], positive_map=MAPS[0])
        found = model.use_precision("fp16")(images, captions=CAPTIONS[:1], positive_map=MAPS[0])
    tiny_detector.assert_same_boxes(found, expected)


def test_an_unknown_precision_is_refused(build):
    with pytest.raises(ValueError, match=r"'int8'.*fp16"):
        build().use_precision("int8")


@pytest.mark.gpu
class TestOnAGpu:
    """Equal to the plain modules in fp32, directly and replayed, for all that may change between calls."""

    @pytest.mark.parametrize(
        ("base", "options"), [(GLIP_T, ()), (GLIP_A, ()), (GLIP_T, PROMPT_TUNING), (GLIP_T, NARROW_HEADS)]
    )
    @torch.no_grad()
    def test_replays_on_fresh_input(self, build, base, options):
        model = build(*options, base=base).cuda()
        fast = build(*options, base=base).cuda().use_precision("fp32")
        for call in range(5):
            images = images_of((60, 90), (64, 70 + call), seed=call).to("cuda")
            captions = [CAPTIONS[call % 2], "cup"] if call % 2 else CAPTIONS
            maps = [{call + 1: [1]}, {1: [1], 9: [1]}]
            expected = model(images, captions=captions, positive_map=maps)
            found = fast(images, captions=captions, positive_map=maps)
            tiny_detector.assert_same_boxes([b.to("cpu") for b in found], [b.to("cpu") for b in expected], atol=1e-3)
        assert len(fast.accelerated_form()._detect) >= 1, "nothing was recorded"

    @torch.no_grad()
    def test_results_are_not_overwritten_by_later_calls(self, build):
        fast = build().cuda().use_precision("fp32")
        calls = [images_of((64, 96), seed=seed).to("cuda") for seed in range(4)]
        pyramids = [fast.encode_image(images) for images in calls]
        copies = [pyramid.visual.clone() for pyramid in pyramids]
        texts = [fast.encode_text([caption]) for caption in ("red star", "blue cup", "red cup", "blue star")]
        hidden = [text.hidden.clone() for text in texts]
        found = [fast.detect(p, t, {1: [1]}) for p, t in zip(pyramids, texts, strict=True)]
        again = [fast.detect(p, t, {1: [1]}) for p, t in zip(pyramids, texts, strict=True)]
        for pyramid, copy in zip(pyramids, copies, strict=True):
            assert torch.equal(pyramid.visual, copy)
        assert all(torch.equal(text.hidden, kept) for text, kept in zip(texts, hidden, strict=True))
        for first, second in zip(found, again, strict=True):
            tiny_detector.assert_same_boxes([b.to("cpu") for b in first], [b.to("cpu") for b in second], atol=1e-4)

    @torch.no_grad()
    def test_batches_that_begin_before_the_last_is_taken(self, build):
        """Directly and replayed, what is fetched later equals what is waited for."""
        fast = build().cuda().use_precision("fp32")
        text = fast.encode_text(["red star"])
        maps = build_token_map([{1: [1], 2: [2]}], text.hidden.shape[1], device=fast.device)
        calls = [images_of((64, 96), seed=seed).to("cuda") for seed in range(4)]
        later = [detect_later(fast, fast.encode_images(images), text, maps) for images in calls]
        for collect, images in zip(later, calls, strict=True):
            expected = [boxes.to("cpu") for boxes in fast.detect(fast.encode_images(images), text, maps)]
            assert len(expected[0]) > 5
            tiny_detector.assert_same_boxes(collect(), expected, atol=1e-4)

    def test_recordings_of_inference_mode_serve_outside_of_it(self, build):
        fast, images = build().cuda().use_precision("fp32"), images_of((60, 90)).to("cuda")
        call = {"captions": CAPTIONS[:1], "positive_map": MAPS[0]}
        with torch.inference_mode():
            expected = [fast(images, **call) for _ in range(3)][-1]
        for mode in (torch.no_grad, torch.enable_grad, torch.inference_mode):
            with mode(), torch.autocast("cuda", torch.float16):
                found = fast(images, **call)
            tiny_detector.assert_same_boxes([b.to("cpu") for b in found], [b.to("cpu") for b in expected], atol=1e-4)
        copied = deepcopy(fast)
        tiny_detector.assert_same_boxes(
            [b.to("cpu") for b in copied(images, **call)], [b.to("cpu") for b in expected], atol=1e-4
        )

    @torch.no_grad()
    def test_changed_weights_are_used(self, build):
        model, images = build().cuda().use_precision("fp32"), images_of((60, 90)).to("cuda")
        call = {"captions": CAPTIONS[:1], "positive_map": MAPS[0]}
        before = model(images, **call)
        other = tiny_detector.scramble(build(), scale=0.1, seed=5).cuda()
        model.load_state_dict(other.state_dict())
        after, expected = model(images, **call), other(images, **call)
        tiny_detector.assert_same_boxes([b.to("cpu") for b in after], [b.to("cpu") for b in expected], atol=1e-3)
        assert not torch.equal(before[0].get_field("scores"), after[0].get_field("scores"))

    @pytest.mark.parametrize("base", [GLIP_T, GLIP_A])
    @torch.no_grad()
    def test_several_texts_for_one_image(self, build, base):
        model, fast = build(base=base).cuda(), build(base=base).cuda().use_precision("fp32")
        images = images_of((60, 90)).to("cuda")
        captions, maps = [*CAPTIONS, "yellow cup"], [*MAPS, {5: [2]}]
        for _ in range(3):
            found = fast.detect(fast.encode_image(images), fast.encode_text(captions), maps)
            expected = model.detect(model.encode_image(images), model.encode_text(captions), maps)
            tiny_detector.assert_same_boxes([b.to("cpu") for b in found], [b.to("cpu") for b in expected], atol=1e-3)

    @pytest.mark.parametrize("precision", ["fp16", "bf16", "tf32"])
    @torch.no_grad()
    def test_less_precision_finds_nearly_the_same(self, build, precision):
        model = build().cuda()
        images = images_of((60, 90)).to("cuda")
        expected = model(images, captions=CAPTIONS[:1], positive_map=MAPS[0])[0].get_field("scores")
        for _ in range(3):
            found = model.use_precision(precision)(images, captions=CAPTIONS[:1], positive_map=MAPS[0])[0]
        scores = found.get_field("scores")
        count = min(len(scores), len(expected), 20)
        assert count == 20
        torch.testing.assert_close(scores[:count], expected[:count], atol=0.05, rtol=0)

    @pytest.mark.parametrize("precision", ["fp16", "fp32"])
    @torch.no_grad()
    def test_plain_modules_serve_what_is_not_accelerated(self, build, precision, caplog):
        model = build("MODEL.DYHEAD.SCORE_AGG", "MAX").cuda()
        images = images_of((60, 90)).to("cuda")
        expected = model(images, captions=CAPTIONS[:1], positive_map=MAPS[0])[0].get_field("scores")
        found = model.use_precision(precision)(images, captions=CAPTIONS[:1], positive_map=MAPS[0])[0]
        torch.testing.assert_close(found.get_field("scores")[:10], expected[:10], atol=0.05, rtol=0)
        assert sum("runs on the plain modules" in record.getMessage() for record in caplog.records) == 1

    def test_training_goes_on_in_plain_modules(self, build):
        model = build().cuda().use_precision("fp16")
        images = to_image_list([torch.randn(3, 64, 64)]).to("cuda")
        target = tiny_detector.target([[5.0, 5, 40, 40]], (64, 64))
        with torch.no_grad():
            model(images, captions=["star"], positive_map={1: [1]})
        positive_map = torch.zeros(1, 48)
        positive_map[0, 1] = 1
        losses = model.train()(images, [target.to("cuda")], ["star"], positive_map.cuda())
        sum(losses.values()).backward()
        assert model.rpn.head.bbox_pred.weight.grad.dtype == torch.float32
