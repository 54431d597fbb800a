"""The guarded step with every kind of optimizer, and the count of skipped steps."""

import pytest
import torch

from maskrcnn_benchmark.engine.training.guarded_step import GuardedStep, LossNotFinite, StepMonitor
from maskrcnn_benchmark.solver import clip_before_step
from maskrcnn_benchmark.solver.optimizer import MergedAdamW

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
    "fused": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, fused=True),
    "merged": lambda parameters: MergedAdamW([{"params": [p]} for p in parameters], lr=0.1),
    "merged fused": lambda parameters: MergedAdamW([{"params": [p]} for p in parameters], lr=0.1, fused=True),
}


@pytest.mark.parametrize("use_loss_scale", [False, True])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_bad_steps_change_nothing(name, clip, use_loss_scale, device):
    """Good, bad, good must equal good, good: also in the optimizer's own state."""

    def run(factors):
        torch.manual_seed(0)
        weight, bias = (torch.nn.Parameter(torch.randn(n).to(device)) for n in (3, 2))
        optimizer = OPTIMIZERS[name]([weight, bias])
        if clip:
            clip_before_step(optimizer, "full_model", 0.5)
        step = GuardedStep(optimizer, device, use_loss_scale)
        skipped = []
        for factor in factors:
            loss = (weight.square().sum() + bias.square().sum()) * factor
            skipped.append(bool(step(loss)))
        return torch.cat([weight, bias]).detach(), skipped

    expected, skipped = run([1.0, 1.0])
    assert skipped == [False, False]
    for bad in (torch.nan, torch.inf):
        result, skipped = run([1.0, bad, 1.0])
        assert skipped == [False, True, False]
        torch.testing.assert_close(result, expected, atol=0, rtol=0)


@pytest.mark.parametrize(("saving", "loading"), [("merged", "merged fused"), ("merged fused", "merged")])
def test_steps_go_on_from_a_checkpoint_of_another_kind_of_optimizer(saving, loading, device):
    """A run on a GPU may be resumed without one, and the other way round."""

    def optimizer_of(name):
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(3).to(device))
        return weight, OPTIMIZERS[name]([weight])

    weight, optimizer = optimizer_of(saving)
    GuardedStep(optimizer, device, use_loss_scale=False)(weight.square().sum())
    resumed, other = optimizer_of(loading)
    other.load_state_dict(optimizer.state_dict())
    step = GuardedStep(other, device, use_loss_scale=False)
    before = resumed.detach().clone()
    assert bool(step(resumed.square().sum() * torch.nan)) and torch.equal(resumed, before)
    assert not bool(step(resumed.square().sum())) and not torch.equal(resumed, before)


def test_bad_gradient_of_a_good_loss_is_noticed():
    weight = torch.nn.Parameter(torch.zeros(1))
    step = GuardedStep(torch.optim.SGD([weight], lr=0.1), torch.device("cpu"), use_loss_scale=False)
    assert bool(step(weight.sqrt().sum())), "the root is 0, its slope is infinite"
    assert weight.item() == 0.0


def test_loss_scale_is_saved_and_restored():
    weight = torch.nn.Parameter(torch.ones(1))
    step = GuardedStep(torch.optim.SGD([weight], lr=0.1), torch.device("cpu"), use_loss_scale=True)
    step(weight.sum() * torch.nan)
    state = step.state_dict()
    assert state["scale"] == 2.0**15
    other = GuardedStep(torch.optim.SGD([weight], lr=0.1), torch.device("cpu"), use_loss_scale=True)
    other.load_state_dict(state)
    assert other.state_dict() == state
    assert GuardedStep(torch.optim.SGD([weight], lr=0.1), torch.device("cpu"), False).state_dict() == {}


def test_monitor_counts_and_gives_up():
    monitor = StepMonitor(max_in_a_row=3)
    for iteration, bad in enumerate([True, False, True, True], start=1):
        monitor.update(iteration, {"loss_a": torch.tensor(float(iteration))}, torch.tensor(bad))
    assert monitor.check().startswith(
        "loss or gradient not finite, step skipped 3 times, last at iteration 4 (loss_a 4)"
    )
    assert monitor.check() == "" and monitor.skipped == 3
    monitor.update(5, {"loss_a": torch.tensor(torch.nan)}, torch.tensor(True))
    with pytest.raises(LossNotFinite, match="last at iteration 5 .loss_a nan.; giving up after 3 in a row"):
        monitor.check()
