"""Frozen parts in recorded training: accelerated where they may be, and of the same numbers as the plain modules.

On a CPU the accelerated modules compute by the definitions of their kernels, see `accelerated`.
"""

from copy import deepcopy

import pytest
import tiny_detector
import torch
from tiny_detector import CAPTIONS, loss_and_gradients, training_batch
from triton_interpreter import interpreted_kernels

from maskrcnn_benchmark.engine.tuning.feature_cache import FeatureCache
from maskrcnn_benchmark.engine.tuning.tuning_modes import tuning_highlevel_override
from maskrcnn_benchmark.modeling.accelerated import frozen_parts
from maskrcnn_benchmark.modeling.accelerated.dyconv import AcceleratedDyConv
from maskrcnn_benchmark.modeling.detector import build_detection_model, disable_stochasticity
from maskrcnn_benchmark.modeling.heads.dyconv import DyConv
from maskrcnn_benchmark.ops.kernels import triton_support

MODES = ("linear_prob", "language_prompt_v1", "language_prompt_v2", "language_prompt_v4_fixed")
OPTIONS = (
    *("MODEL.DYHEAD.USE_CHECKPOINT", False, "MODEL.BACKBONE.USE_CHECKPOINT", False),
    *("MODEL.SWINT.EMBED_DIM", 16, "MODEL.SWINT.NUM_HEADS", (1, 2, 4, 8)),
    *("MODEL.SWINT.OUT_CHANNELS", (16, 32, 64, 128)),
)


@pytest.fixture
def build(tmp_path):
    """`build(mode, *options)`: a small detector that is to be trained with recorded steps and draws no numbers."""
    folder = tiny_detector.make_text_folder(tmp_path / "text")

    def build(mode, *options):
        torch.manual_seed(0)
        override = ("SOLVER.TUNING_HIGHLEVEL_OVERRIDE", mode)
        cfg = tuning_highlevel_override(tiny_detector.tiny_config(folder, *OPTIONS, *override, *options))
        model = tiny_detector.scramble(build_detection_model(cfg), scale=0.1)
        return disable_stochasticity(model).train().use_training_graphs()

    return build


@pytest.fixture
def accelerated(monkeypatch):
    """Lets the accelerated modules serve the CPU too; there the launchers themselves compute without kernels."""
    monkeypatch.setattr(triton_support, "runs_kernels", lambda tensor: True)


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def half(device="cpu"):
    return torch.autocast(device, torch.float16)


def pictures(seed=1, device="cpu"):
    return training_batch(seed, device)[0].tensors


@pytest.fixture
def layers(monkeypatch):
    """The list to which every run of an accelerated layer of the tower adds the type of its numbers."""
    runs, call = [], AcceleratedDyConv.__call__

    def counted(self, visual, *arguments, **options):
        runs.append(visual.dtype)
        return call(self, visual, *arguments, **options)

    monkeypatch.setattr(AcceleratedDyConv, "__call__", counted)
    return runs


def plain_twin(model):
    """A copy whose steps are neither recorded nor accelerated."""
    return deepcopy(model).use_training_graphs(False)


def runs_of_the_body(model):
    """The list that grows with every run of the plain body."""
    runs = []
    model.backbone.body.register_forward_hook(lambda *_: runs.append(1))
    return runs


def assert_same_training(ours, theirs, limit=0.1):
    """Losses, and gradients all together, of which rounding to 16 bits changes some percent in so small a network.

    That of a prompt changes most; with another image encoder it is another one altogether, by more than its length.
    """
    torch.testing.assert_close(ours[0], theirs[0], rtol=2e-3, atol=1e-4)
    assert ours[1].keys() == theirs[1].keys()
    flat, expected = (
        torch.cat([gradients[name].flatten() for name in theirs[1]]) for gradients in (ours[1], theirs[1])
    )
    assert float((flat - expected).norm()) <= limit * float(expected.norm())


@torch.no_grad()
def test_levels_err_no_more_than_those_of_the_modules(build, accelerated):
    model, images = build("linear_prob"), pictures()
    exact = deepcopy(model.backbone).double()(images.double())
    with half():
        ours, plain = model.recorded_training.frozen_images(images), model.run_backbone(images)
    assert ours.c4 is None and ours.text is None
    errors = []
    for level, other, reference in zip(ours.levels, plain.levels, exact, strict=True):
        assert (level.dtype, level.shape, level.stride()) == (other.dtype, other.shape, other.stride())
        assert not torch.equal(level, other), "these were not accelerated"
        errors.append([(one - reference).norm() for one in (level, other)])
    found, usual = torch.tensor(errors).norm(dim=0)
    assert found <= 1.1 * usual


@pytest.mark.parametrize("mode", MODES)
def test_what_is_trained_gets_the_same_gradients(build, accelerated, layers, mode):
    model = build(mode)
    plain = plain_twin(model)
    runs, plain_runs = runs_of_the_body(model), runs_of_the_body(plain)
    for seed in (1, 2):
        exact = loss_and_gradients(plain, training_batch(seed))
        with half():
            assert_same_training(loss_and_gradients(model, training_batch(seed)), exact)
    assert (len(runs), len(plain_runs)) == (0, 2)
    # Before those of a linear probe nothing is trained. There are two.
    assert layers == ([torch.float16] * 4 if mode == "linear_prob" else [])


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        pytest.param("full", (), id="trained"),
        pytest.param("linear_prob", ("MODEL.FPN.USE_PAN", True), id="other-pyramid"),
        pytest.param("linear_prob", ("MODEL.SWINT.VERSION", "v2"), id="other-body"),
        pytest.param("linear_prob", ("MODEL.SWINT.VERSION", "vl"), id="body-that-reads-text"),
    ],
)
def test_what_is_trained_or_has_no_accelerated_form_runs_plainly(build, accelerated, mode, options):
    model = build(mode, *options)
    runs = runs_of_the_body(model)
    with half():
        model(*training_batch(1))
    assert len(runs) == 1


def test_only_recorded_steps_under_autocast_on_a_gpu_are_accelerated(build, monkeypatch, layers):
    model = build("linear_prob")
    runs = runs_of_the_body(model)
    with half():
        model(*training_batch(1))
    assert len(runs) == 1, "this is a CPU"
    monkeypatch.setattr(triton_support, "runs_kernels", lambda tensor: True)
    model(*training_batch(1))
    assert len(runs) == 2, "there is no autocast"
    assert not layers
    with half():
        model(*training_batch(1))
        assert len(runs) == 2 and len(layers) == 2
        model.eval()(training_batch(1)[0], captions=CAPTIONS, positive_map={1: [1]})
        assert len(runs) == 3 and len(layers) == 2, "this was no training"
        runs.clear()
        model.train()
        model.backbone.fpn.requires_grad_(True)
        model(*training_batch(1))
        assert len(runs) == 1, "the pyramid is trained"
        model.train()
        model.backbone.body.train()
        model(*training_batch(1))
        assert len(runs) == 2, "the body draws random numbers"
        layers.clear()
        next(one for one in model.rpn.head.dyhead_tower if isinstance(one, DyConv)).requires_grad_(True)
        model(*training_batch(1))
        assert not layers, "the first layer is trained, and what it gives to the second has a gradient"
        runs.clear()
        model.train().use_training_graphs(False)(*training_batch(1))
        assert len(runs) == 1 and not layers, "steps are not recorded"


def test_weights_are_prepared_once_and_anew_when_they_changed(build, accelerated):
    model, images = build("language_prompt_v2"), pictures()
    encoder = model.recorded_training.frozen_images
    with half():
        before = encoder(images)
        prepared = encoder.forms._prepared["fp16"]
        model.eval().train()
        assert encoder(images) and encoder.forms._prepared["fp16"] is prepared
        copied = deepcopy(model)
        tower, copied_encoder = copied.rpn.head.dyhead_tower, copied.recorded_training.frozen_images
        assert all(layer.frozen_form.layer is layer for layer in tower if isinstance(layer, DyConv))
        assert copied_encoder.backbone is copied.backbone and not copied_encoder.forms._prepared
        other = tiny_detector.scramble(build("language_prompt_v2"), scale=0.1, seed=5)
        model.load_state_dict(other.state_dict())
        after, expected = encoder(images), other.recorded_training.frozen_images(images)
    for level, same, old in zip(after.levels, expected.levels, before.levels, strict=True):
        assert torch.equal(level, same) and not torch.equal(level, old)
    model.forget_prepared_weights()  # as after changes that PyTorch does not count
    assert not model.recorded_training.frozen_images.forms._prepared


def test_nothing_is_prepared_in_a_recording(build, accelerated, monkeypatch):
    model, images = build("linear_prob"), pictures()
    answers = []
    for is_recording in (True, False, True):
        monkeypatch.setattr(frozen_parts, "_is_recording", lambda images, answer=is_recording: answer)
        with half():
            answers.append(model.recorded_training.frozen_images(images) is not None)
    assert answers == [False, True, True]


def test_kernels_of_a_layer(build):
    """The kernels themselves, interpreted, with the tables that the layer keeps for recordings."""
    layer = next(module for module in build("linear_prob").rpn.head.dyhead_tower if isinstance(module, DyConv))
    generator = torch.Generator().manual_seed(1)
    levels = [torch.randn(1, 16, *size, generator=generator) for size in ((8, 11), (4, 6), (2, 3))]
    with torch.no_grad():
        expected = layer.mix_levels(levels)
    with half(), interpreted_kernels():
        found = layer.frozen_form(levels)
    assert len(layer.frozen_form._plans) == 1
    for level, other in zip(found, expected, strict=True):
        assert level.dtype == torch.float16 and level.is_contiguous()
        assert (level - other).norm() <= 5e-3 * other.norm()


def test_recordings_are_forgotten_when_frozen_weights_change(build):
    model = build("linear_prob")
    graphs = model.recorded_training.from_features
    graphs._forget_if_moved()
    graphs._seen["shape"] = 1
    with torch.no_grad():
        model.rpn.head.log_scale.add_(1)
    model.eval().train()
    graphs._forget_if_moved()
    assert graphs._seen, "steps of the optimizer change what is trained"
    model.load_state_dict(model.state_dict())
    graphs._forget_if_moved()
    assert not graphs._seen


def test_features_that_are_kept_are_those_of_the_plain_modules(build, accelerated, tmp_path):
    model, images = build("linear_prob"), training_batch(1)[0]
    images.names = ["one", "two"]
    model.picture_memory = FeatureCache(tmp_path, model.backbone, "")
    runs = runs_of_the_body(model)
    with half():
        kept = model.encode_images(images).levels
        plain = [model.run_backbone(images.tensors[row : row + 1]).levels for row in range(2)]
        model(images, *training_batch(1)[1:])
    assert len(runs) == 4 and all(map(torch.equal, kept, map(torch.cat, zip(*plain, strict=True))))


@pytest.mark.gpu
class TestOnAGpu:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("mode", MODES)
    def test_recorded_steps_equal_plain_ones(self, build, mode, dtype):
        """Directly, recorded and replayed, with weights that an optimizer moves."""
        model = build(mode).cuda()
        plain = plain_twin(model)
        runs = runs_of_the_body(model)
        optimizers = [
            torch.optim.SGD((p for p in one.parameters() if p.requires_grad), lr=1e-3) for one in (model, plain)
        ]
        for seed in (1, 2, 3, 4, 5, 6):
            with torch.autocast("cuda", dtype):
                ours, theirs = (loss_and_gradients(one, training_batch(seed, "cuda")) for one in (model, plain))
            if dtype == torch.float16:
                assert_same_training(ours, theirs, limit=0.3)
            torch.testing.assert_close(ours[0], theirs[0], rtol=1e-2, atol=1e-3)
            for optimizer in optimizers:
                optimizer.step()
        recorded = model.recorded_training
        assert not runs and len(recorded.from_tokens) + len(recorded.from_features) == 1

    def test_weights_that_are_loaded_after_the_recording_are_used(self, build):
        model = build("language_prompt_v2").cuda()
        with half("cuda"):
            for _ in range(5):
                before, _ = loss_and_gradients(model, training_batch(1, "cuda"))
            assert len(model.recorded_training.from_features) == 1
            model.load_state_dict(tiny_detector.scramble(build("language_prompt_v2"), scale=0.1, seed=5).state_dict())
            plain = plain_twin(model)
            for seed in (1, 2, 3, 4, 5):
                ours, theirs = (loss_and_gradients(one, training_batch(seed, "cuda")) for one in (model, plain))
                assert_same_training(ours, theirs, limit=0.3)
        after, _ = loss_and_gradients(plain, training_batch(1, "cuda"))
        assert len(model.recorded_training.from_features) == 1
        assert any(not torch.allclose(after[name], before[name], rtol=0.01) for name in before)

    def test_evaluation_between_replays_changes_nothing(self, build):
        model = build("linear_prob").cuda()
        with half("cuda"):
            for _ in range(5):
                before, _ = loss_and_gradients(model, training_batch(1, "cuda"))
            model.eval()
            with torch.no_grad():
                model(training_batch(1, "cuda")[0], captions=CAPTIONS, positive_map={1: [1]})
            torch.cuda.empty_cache()
            after, _ = loss_and_gradients(model.train(), training_batch(1, "cuda"))
        torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-5)
        assert len(model.recorded_training.from_features) == 1
