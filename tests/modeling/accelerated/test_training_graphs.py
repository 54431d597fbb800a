"""Recorded training: losses and gradients of the network itself, on the CPU by calling it, on a GPU by replaying."""

from copy import deepcopy

import pytest
import tiny_detector
import torch
from tiny_detector import CAPTIONS, POSITIVE_MAP, loss_and_gradients, training_batch

from maskrcnn_benchmark.engine.tuning.tuning_modes import TUNING_MODES, trainable_names, tuning_highlevel_override
from maskrcnn_benchmark.modeling.detector import build_detection_model, disable_stochasticity

MAX_TOKENS = ("MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN", 128)
NO_CHECKPOINTS = ("MODEL.DYHEAD.USE_CHECKPOINT", False, "MODEL.BACKBONE.USE_CHECKPOINT", False)


@pytest.fixture
def build(tmp_path):
    """`build(*options)`: a small detector in training mode."""
    folder = tiny_detector.make_text_folder(tmp_path / "text")

    def build(*options):
        torch.manual_seed(0)
        cfg = tuning_highlevel_override(tiny_detector.tiny_config(folder, *NO_CHECKPOINTS, *options))
        model = build_detection_model(cfg)
        return tiny_detector.scramble(model, scale=0.1).train()

    return build


def batch(seed, device="cpu", size=(60, 90)):
    return training_batch(seed, device, size=size, shift=3.0 * seed)


def test_the_recorded_way_gives_the_same_losses_where_nothing_is_recorded(build):
    model = disable_stochasticity(build())
    plain = loss_and_gradients(model, batch(1))
    recorded = loss_and_gradients(model.use_training_graphs(), batch(1))
    torch.testing.assert_close(recorded, plain, rtol=0, atol=0)
    assert len(model.recorded_training.from_tokens) == 0
    assert model.use_training_graphs(False).recorded_training is None


@pytest.mark.parametrize("mode", TUNING_MODES)
def test_ways_of_tuning_where_nothing_is_recorded(build, mode):
    model = disable_stochasticity(build("SOLVER.TUNING_HIGHLEVEL_OVERRIDE", mode))
    plain = loss_and_gradients(model, batch(1))
    recorded = loss_and_gradients(model.use_training_graphs(), batch(1))
    torch.testing.assert_close(recorded, plain, rtol=0, atol=0)
    assert set(plain[1]) <= set(trainable_names(model))


def test_texts_have_few_lengths_where_they_are_not_padded_to_the_limit(build):
    model = disable_stochasticity(build("MODEL.LANGUAGE_BACKBONE.PAD_MAX", False, *MAX_TOKENS))
    arguments = (*batch(1)[:3], torch.nn.functional.pad(POSITIVE_MAP, (0, 128 - POSITIVE_MAP.shape[1])))
    assert model.tokenize(CAPTIONS, trim=False).input_ids.shape[1] < 64
    plain = loss_and_gradients(model, arguments)
    model.use_training_graphs()
    assert model.tokenize(CAPTIONS, trim=False).input_ids.shape[1] == 64
    torch.testing.assert_close(loss_and_gradients(model, arguments), plain, rtol=1e-4, atol=1e-6)


def test_recordings_are_forgotten_when_something_is_frozen(build):
    graphs = build().use_training_graphs().recorded_training.from_tokens
    graphs._forget_if_moved()
    graphs._seen["shape"] = 1
    graphs.module.eval().train()
    graphs._forget_if_moved()
    assert graphs._seen, "what the configuration freezes is frozen still"
    graphs.module.rpn.head.log_scale.requires_grad_(False)
    graphs._forget_if_moved()
    assert not graphs._seen


def test_copies_have_graphs_of_their_own(build):
    model = build().use_training_graphs()
    copied = deepcopy(model)
    assert copied.recorded_training is not model.recorded_training
    assert copied.recorded_training.model is copied
    for graphs in (copied.recorded_training.from_tokens, copied.recorded_training.from_features):
        assert graphs.module is copied
        assert graphs.function.__self__ is copied.recorded_training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("MODEL.DYHEAD.USE_CHECKPOINT", True), "USE_CHECKPOINT keys"),
        (("MODEL.DYHEAD.FUSE_CONFIG.MLM_LOSS", True), "MLM_LOSS"),
    ],
)
def test_what_cannot_be_recorded_is_refused(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(*options).use_training_graphs()


@pytest.fixture
def recorded(build, monkeypatch):
    """A model on the GPU without randomness, and its copy that records at the second call."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    plain = disable_stochasticity(build()).cuda()
    model = deepcopy(plain)
    model.use_training_graphs().recorded_training.from_tokens.direct_calls = 1
    return plain, model


@pytest.mark.gpu
def test_replayed_losses_and_gradients_equal_those_of_direct_calls(recorded):
    plain, model = recorded
    for seed in range(1, 5):
        for dtype in (torch.float32, torch.float16):
            with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
                ours, theirs = (loss_and_gradients(one, batch(seed, "cuda")) for one in (model, plain))
            rough = dtype != torch.float32
            torch.testing.assert_close(ours[0], theirs[0], rtol=2e-3 if rough else 1e-5, atol=1e-6)
            assert ours[1].keys() == theirs[1].keys()
            for name, gradient in theirs[1].items():
                limit = (0.05 if rough else 1e-4) * float(gradient.norm()) + 1e-5
                assert float((ours[1][name] - gradient).norm()) <= limit, name
    assert len(model.recorded_training.from_tokens) == 2


@pytest.mark.gpu
def test_gradients_accumulate_over_replays(recorded):
    plain, model = recorded
    for _ in range(2):
        loss_and_gradients(model, batch(1, "cuda"))
    for one in (plain, model):
        one.zero_grad()
        for seed in (2, 3):
            sum(one(*batch(seed, "cuda")).values()).backward()
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None:
            ours = model.get_parameter(name).grad
            assert float((ours - parameter.grad).norm()) <= 1e-4 * float(parameter.grad.norm()) + 1e-5, name


@pytest.mark.gpu
def test_optimizer_steps_reach_the_recording(recorded):
    plain, model = recorded
    seen = []
    for one in (plain, model):
        optimizer = torch.optim.SGD(one.parameters(), lr=1e-3)
        losses = []
        for seed in (1, 2, 1, 2, 1):
            optimizer.zero_grad()
            losses.append(sum(one(*batch(seed, "cuda")).values()))  # with its graph, as DDP keeps that of a parameter
            losses[-1].backward()
            optimizer.step()
        seen.append(torch.stack(losses).detach())
    torch.testing.assert_close(*seen, rtol=1e-4, atol=1e-5)
    assert len(set(seen[1].tolist())) == 5


@pytest.mark.gpu
def test_a_late_backward_pass_is_refused(recorded):
    _, model = recorded
    for _ in range(2):
        loss_and_gradients(model, batch(1, "cuda"))
    early = sum(model(*batch(1, "cuda")).values())
    sum(model(*batch(2, "cuda")).values()).backward()
    with pytest.raises(RuntimeError, match="overwritten by a later one"):
        early.backward()


@pytest.mark.gpu
def test_dropout_is_drawn_anew_in_every_replay(build):
    model = build().cuda().use_training_graphs()
    for _ in range(4):
        loss_and_gradients(model, batch(1, "cuda"))
    assert len(model.recorded_training.from_tokens) == 1
    losses = {float(sum(model(*batch(1, "cuda")).values()).detach()) for _ in range(4)}
    assert len(losses) == 4


@pytest.mark.gpu
def test_recordings_end_with_the_weights_they_read(recorded):
    _, model = recorded
    for _ in range(2):
        loss_and_gradients(model, batch(1, "cuda"))
    model.backbone.requires_grad_(False)
    _, gradients = loss_and_gradients(model, batch(1, "cuda"))
    assert not any(name.startswith("backbone.") for name in gradients)
    assert len(model.recorded_training.from_tokens) == 0


@pytest.mark.gpu
def test_other_shapes_are_computed_directly_first_and_no_more_than_the_capacity_recorded(recorded):
    plain, model = recorded
    model.recorded_training.from_tokens.capacity = 1
    for size in ((60, 90), (60, 120)):
        for _ in range(3):
            ours, theirs = (loss_and_gradients(one, batch(1, "cuda", size))[0] for one in (model, plain))
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert len(model.recorded_training.from_tokens) == 1
