"""A batch computed in parts makes the step of the whole batch."""

import contextlib

import pytest
import torch
from tiny_detector import make_text_folder, positive_rows, random_images, scramble, target, tiny_config
from torch import nn
from toy_training import toy_trainer

from maskrcnn_benchmark.engine.training.accumulation import TrainingBatch, backward_in_parts
from maskrcnn_benchmark.engine.training.guarded_step import GuardedStep
from maskrcnn_benchmark.modeling.detector import build_detection_model

NUM_TOKENS = 48
STILL = (
    *("MODEL.SWINT.DROP_PATH_RATE", 0.0, "MODEL.FPN.DROP_BLOCK", False, "MODEL.WEIGHT", ""),
    *("MODEL.DYHEAD.FUSE_CONFIG.MLM_LOSS", False),
)


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> nn.Module:
    folder = make_text_folder(
        tmp_path_factory.mktemp("text"), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    torch.manual_seed(0)
    model = scramble(build_detection_model(tiny_config(folder, *STILL)), 0.05).train()
    for module in model.modules():
        if "dropout" in type(module).__name__.lower():
            module.eval()
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    return model


def batch() -> TrainingBatch:
    """Four pictures of odd sizes with 2, 0, 1 and 3 boxes."""
    sizes = [(70, 90), (64, 64), (90, 50), (33, 91)]
    boxes = [
        [[5.0, 5.0, 40.0, 50.0], [30.0, 20.0, 80.0, 60.0]], [], [[10.0, 10.0, 45.0, 80.0]],
        [[1.0, 1.0, 20.0, 20.0], [40.0, 5.0, 90.0, 30.0], [60.0, 3.0, 70.0, 12.0]],
    ]  # fmt: skip
    targets = [target(rows, (width, height)) for rows, (height, width) in zip(boxes, sizes, strict=True)]
    rows = positive_rows([[1], [2, 3], [1], [4], [2], [1, 2]], NUM_TOKENS)
    captions = ["red cup. blue star", "green ring", "a yellow moon on a red cup", "star. cup. moon"]
    return TrainingBatch(random_images(*sizes, divisible=1), targets, captions, rows, torch.ones(4, NUM_TOKENS))


def gradients(model: nn.Module, parts: int) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    step = GuardedStep(torch.optim.SGD(model.parameters(), lr=0.1), torch.device("cpu"), use_loss_scale=False)
    step.begin()
    losses = backward_in_parts(model, batch(), parts, step, contextlib.nullcontext)
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    return found, {name: loss.item() for name, loss in losses.items()}


@pytest.mark.parametrize("parts", [2, 4])
def test_gradients_of_the_detector_are_those_of_the_whole_batch(detector, parts):
    """The picture without boxes and the unequal numbers of boxes would make means of parts something else."""
    whole, whole_losses = gradients(detector, 1)
    added, added_losses = gradients(detector, parts)
    assert added_losses == pytest.approx(whole_losses, rel=1e-5)
    assert added.keys() == whole.keys()
    noise = 1e-6 * max(
        float(gradient.abs().max()) for gradient in whole.values()
    )  # that of a bias of keys is all noise
    for name, gradient in whole.items():
        error, scale = float((added[name] - gradient).abs().max()), float(gradient.abs().max())
        assert error < max(1e-4 * scale, noise), (name, error, scale)
    assert detector.rpn.loss_evaluator.normalizers is None


def test_parts_have_what_belongs_to_their_pictures():
    whole = batch()
    first, second = whole.split(2)
    assert [len(part.positive_map) for part in (first, second)] == [2, 4]
    assert torch.equal(second.positive_map, whole.positive_map[2:])
    assert first.images.image_sizes == [(70, 90), (64, 64)] and first.images.tensors.shape[-2:] == (90, 91)
    assert second.captions == whole.captions[2:] and len(second.greenlight_map) == 2
    assert whole.split(1) == [whole]


def test_a_batch_that_cannot_be_divided():
    with pytest.raises(ValueError, match="SOLVER.GRADIENT_ACCUMULATION=3 does not divide the 4 pictures"):
        batch().split(3)


def test_data_without_captions():
    plain = batch()._replace(captions=[], positive_map=None, greenlight_map=None)
    seen = []

    def model(*arguments) -> dict:
        seen.append(len(arguments))
        return {}

    for part in plain.split(2):
        part.losses(model)
    assert seen == [2, 2]


def test_trainer_in_parts_equals_the_trainer(tmp_path):
    trainers = [toy_trainer(tmp_path / str(n), 6, accumulation=n) for n in (1, 2)]
    for trainer in trainers:
        trainer.model.body[3].p = 0.0
        trainer.train()
    whole, parts = trainers
    assert (whole.model.calls, parts.model.calls) == (6, 12)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_scaled_parts_make_the_same_step():
    ends = []
    for use_loss_scale, inputs in ((False, [[1.0, 3.0]]), (True, [[1.0], [3.0]])):
        weight = nn.Parameter(torch.tensor(2.0))
        step = GuardedStep(torch.optim.SGD([weight], lr=0.01), torch.device("cpu"), use_loss_scale)
        step.begin()
        for part in inputs:
            step.backward((weight * torch.tensor(part)).square().mean() / len(inputs))
        assert not step.finish()
        ends.append(weight.item())
    assert ends[0] == pytest.approx(2.0 - 0.01 * 2 * 2.0 * 5) and ends[1] == pytest.approx(ends[0])


def test_a_bad_part_spoils_the_step(tmp_path):
    trainer = toy_trainer(tmp_path, 2, accumulation=2, bad_steps=(3,), max_bad_losses=1)
    trainer.train()
    assert trainer.monitor.skipped == 1 and trainer.model.calls == 4
