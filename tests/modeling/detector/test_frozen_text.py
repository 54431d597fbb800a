"""Frozen parts in training: the text encoder runs once for a batch of captions, and nothing frozen builds a graph."""

from copy import deepcopy

import pytest
import torch
from tiny_detector import CAPTIONS, loss_and_gradients, make_text_folder, scramble, tiny_config, training_batch

from maskrcnn_benchmark.engine.tuning.tuning_modes import tuning_highlevel_override
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.modeling.detector.frozen_text import TextMemory

MODES = ("linear_prob", "language_prompt_v2", "language_prompt_v4_fixed")
NO_CHECKPOINTS = ("MODEL.DYHEAD.USE_CHECKPOINT", False, "MODEL.BACKBONE.USE_CHECKPOINT", False)


@pytest.fixture
def build(tmp_path):
    folder = make_text_folder(tmp_path / "text")

    def build(mode, *options):
        torch.manual_seed(0)
        override = ("SOLVER.TUNING_HIGHLEVEL_OVERRIDE", mode)
        cfg = tuning_highlevel_override(tiny_config(folder, *NO_CHECKPOINTS, *override, *options))
        return scramble(build_detection_model(cfg), scale=0.1).train()

    return build


@pytest.fixture
def encoded(monkeypatch):
    """`encoded(model)`: the list to which each run of its text encoder adds the number of its captions."""

    def watch(model):
        calls = []
        model.language_backbone.register_forward_pre_hook(lambda _, args: calls.append(len(args[0]["input_ids"])))
        return calls

    return watch


def step(model, arguments):
    torch.manual_seed(5)  # the dropout of the tower
    return loss_and_gradients(model, arguments)


def forgetful(model):
    """The model that encodes its captions in every step."""
    model.text_memory = _NoMemory()
    return model


class _NoMemory(TextMemory):
    def __call__(self, captions, device, encode):
        return encode()


@pytest.mark.parametrize("mode", MODES)
def test_the_text_encoder_runs_once_and_the_numbers_stay(build, encoded, mode):
    """Bit by bit, with the dropout that linear probing has in the tower."""
    model, plain = build(mode), forgetful(build(mode))
    calls, plain_calls = encoded(model), encoded(plain)
    for seed in (1, 2, 3):
        torch.testing.assert_close(
            step(model, training_batch(seed=seed)), step(plain, training_batch(seed=seed)), rtol=0, atol=0
        )
        model.eval()  # as for a validation between two steps
        model.train()
    assert calls == [2] and plain_calls == [2, 2, 2]


def test_other_captions_and_other_weights(build, encoded):
    """What is kept is of the same captions and the same weights."""
    model = build("language_prompt_v2")
    calls = encoded(model)
    step(model, training_batch())
    step(model, training_batch(captions=CAPTIONS[::-1]))
    assert len(calls) == 2 and len(model.text_memory) == 2
    changed = {name: value + 0.1 for name, value in model.state_dict().items() if value.is_floating_point()}
    before, _ = step(model, training_batch())
    model.load_state_dict(changed, strict=False)
    assert len(model.text_memory) == 0
    after, _ = step(model, training_batch())
    assert len(calls) == 3 and any(not torch.equal(after[name], before[name]) for name in before)
    assert len(deepcopy(model).text_memory) == 0


@pytest.mark.parametrize("mode", ["full", "language_prompt_v1"])
def test_an_encoder_that_is_trained_always_runs(build, encoded, mode):
    model = build(mode)
    calls = encoded(model)
    for _ in range(2):
        _, gradients = step(model, training_batch())
    assert calls == [2, 2] and any(name.startswith("language_backbone") for name in gradients)


def test_masked_words_are_drawn_anew(build, encoded):
    model = build("linear_prob", "MODEL.DYHEAD.FUSE_CONFIG.MLM_LOSS", True)
    calls = encoded(model)
    for _ in range(2):
        model(*training_batch(), greenlight_map=torch.ones(2, 48))
    assert len(calls) == 2


def test_memory_has_a_limit():
    memory = TextMemory(capacity=2)
    calls = []
    for caption in ("a", "b", "a", "c", "a", "b"):
        memory([caption], torch.device("cpu"), lambda caption=caption: calls.append(caption))
    assert calls == ["a", "b", "c", "b"] and len(memory) == 2


@pytest.mark.parametrize("mode", MODES)
def test_frozen_parts_build_no_graph(build, mode):
    """What the tower gets carries no gradient but for the prompt; with a probe alone the tower builds none either."""
    model, seen = build(mode), {}
    model.rpn.head.dyhead_tower.register_forward_pre_hook(lambda _, args: seen.update(state=args[0]))
    model.rpn.head.dyhead_tower.register_forward_hook(lambda _, args, out: seen.update(out=out))
    step(model, training_batch())
    assert not any(level.requires_grad for level in seen["state"].visual)
    assert seen["state"].hidden.requires_grad == seen["out"].visual[0].requires_grad == (mode != "linear_prob")


@pytest.mark.parametrize("mode", MODES)
def test_the_way_of_recordings_gives_the_same(build, encoded, mode):
    """On a CPU nothing is recorded; the network is called with encoded text."""
    model, plain = build(mode).use_training_graphs(), build(mode)
    calls = encoded(model)
    for seed in (1, 2):
        torch.testing.assert_close(
            step(model, training_batch(seed=seed)), step(plain, training_batch(seed=seed)), rtol=0, atol=0
        )
    assert calls == [2]
