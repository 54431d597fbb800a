import json
import logging

import golden_tools
import pytest
import torch
from named_parameters import NamedParameters
from torch import nn

from maskrcnn_benchmark.config import default_config
from maskrcnn_benchmark.solver import (
    WarmupCosineAnnealingLR,
    WarmupMultiStepLR,
    WarmupReduceLROnPlateau,
    WeightDecaySchedule,
    make_lr_scheduler,
    make_optimizer,
    make_weight_decay_schedule,
)
from maskrcnn_benchmark.solver.lr_scheduler import milestones_in_iterations

RECORDED = json.loads((golden_tools.GOLDEN_DIR / "lr_schedules.json").read_text(encoding="utf-8"))


def optimizer_with(rate: float = 1.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate, weight_decay=1.0)


def rates(scheduler, iterations: int) -> list[float]:
    """The rate of the first group during each iteration."""
    used = []
    for _ in range(iterations):
        used.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return used


@pytest.mark.parity
@pytest.mark.parametrize("name", sorted(RECORDED))
def test_rates_are_the_recorded_ones(name):
    recorded = json.loads(golden_tools.golden_path("lr_schedules.json").read_text(encoding="utf-8"))[name]
    tree = default_config()
    tree.merge_from_other_cfg({"SOLVER": recorded["SOLVER"]})
    optimizer = make_optimizer(tree, NamedParameters(recorded["param_names"]))
    assert [group["name"] for group in optimizer.param_groups] == recorded["param_names"]
    assert [group["weight_decay"] for group in optimizer.param_groups] == recorded["weight_decay"]
    scheduler = make_lr_scheduler(tree, optimizer)
    assert getattr(scheduler, "milestones", []) == recorded["milestones"]
    used = []
    for _ in range(100):
        used.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    torch.testing.assert_close(
        torch.tensor(used, dtype=torch.float64),
        torch.tensor(recorded["lr_used_at_iteration_0..99"], dtype=torch.float64),
        rtol=1e-12,
        atol=0,
    )


def test_steps_during_warm_up_and_after():
    scheduler = WarmupMultiStepLR(optimizer_with(), (6, 8), 0.1, 0.001, 4, "linear")
    expected = [0.001, 0.25075, 0.5005, 0.75025, 1, 1, 0.1, 0.1, 0.01, 0.01]
    assert rates(scheduler, 10) == pytest.approx(expected)


def test_constant_warm_up_and_milestone_inside_it():
    scheduler = WarmupMultiStepLR(optimizer_with(), (2,), 0.5, 0.1, 4, "constant")
    assert rates(scheduler, 6) == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.5, 0.5])


@pytest.mark.parametrize(
    ("steps", "length", "milestones"),
    [((0.67, 0.89), 100, [67, 89]), ((0.5, 0.25), 10, [5, 2]), ((0.25,), 6, [2]), ((300, 302.5), 400, [300, 302.5])],
)
def test_fractions_round_half_to_even_and_iterations_stay_as_they_are(steps, length, milestones):
    assert milestones_in_iterations(steps, length) == milestones


def test_wrong_schedules_are_errors():
    with pytest.raises(ValueError, match=r"must ascend, got \[8, 6\]"):
        WarmupMultiStepLR(optimizer_with(), (8, 6))
    for build in (lambda **method: WarmupMultiStepLR(optimizer_with(), (6,), **method),
                  lambda **method: WarmupCosineAnnealingLR(optimizer_with(), 10, **method),
                  lambda **method: WarmupReduceLROnPlateau(optimizer_with(), **method)):  # fmt: skip
        with pytest.raises(ValueError, match="'exp'; known: linear, constant"):
            build(warmup_method="exp")
    tree = default_config()
    tree.merge_from_list(["SOLVER.MULTI_MAX_EPOCH", "(1, 2)"])
    with pytest.raises(ValueError, match="MULTI_MAX_EPOCH"):
        make_lr_scheduler(tree, optimizer_with())


def test_cosine_takes_the_arguments_of_steps():
    by_place = WarmupCosineAnnealingLR(optimizer_with(), 10, 0.5, 0.1, 4, "linear", 0.2)
    by_name = WarmupCosineAnnealingLR(
        optimizer_with(), 10, warmup_factor=0.1, warmup_iters=4, warmup_method="linear", eta_min=0.2
    )
    assert rates(by_place, 11) == rates(by_name, 11)


def test_cosine_ends_above_its_minimum():
    scheduler = WarmupCosineAnnealingLR(optimizer_with(), 100, eta_min=0.0, warmup_iters=20, warmup_factor=0.1)
    used = rates(scheduler, 101)
    assert used[0] == pytest.approx(0.1) and used[20] == pytest.approx(1.0)
    assert used[100] == pytest.approx((1 + torch.cos(torch.tensor(torch.pi * 0.8)).item()) / 2, abs=1e-6)


def test_cosine_ends_at_its_minimum_on_request():
    tree = default_config()
    tree.merge_from_list(
        ["SOLVER.USE_COSINE", True, "SOLVER.COSINE_EXACT_END", True, "SOLVER.MAX_ITER", 100, "SOLVER.WARMUP_ITERS", 20]
    )
    used = rates(make_lr_scheduler(tree, optimizer_with()), 101)
    assert used[20] == pytest.approx(1.0) and used[60] == pytest.approx(0.5, abs=1e-5)
    assert used[100] == pytest.approx(tree.SOLVER.MIN_LR)


def plateau(**options) -> WarmupReduceLROnPlateau:
    return WarmupReduceLROnPlateau(optimizer_with(), **{"gamma": 0.1, "patience": 2, "warmup_iters": 0, **options})


def test_plateau_drops_after_patience():
    scheduler = plateau()
    seen = []
    for score in (0.5, 0.5, 0.50001, 0.4, 0.6, 0.6, 0.6, 0.6):
        scheduler.step(score)
        seen.append(scheduler.optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01])


def test_plateau_does_not_count_a_score_of_zero():
    scheduler = plateau()
    for _ in range(10):
        scheduler.step(0.0)
    assert scheduler.optimizer.param_groups[0]["lr"] == 1


def test_plateau_warms_up_after_the_first_iteration():
    assert rates(plateau(warmup_iters=4, warmup_factor=0.0), 7) == pytest.approx([1, 0, 0.25, 0.5, 1, 1, 1])


def test_plateau_takes_scores_during_warm_up_for_steps_of_it():
    scheduler = plateau(warmup_iters=4, warmup_factor=0.0)
    seen = []
    for score in (0.5, 0.0, None, 0.5, 0.5, 0.4):
        scheduler.step(score)
        seen.append(scheduler.optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([0, 0.25, 0.5, 1, 1, 1])
    assert scheduler.num_bad_epochs == 1 and scheduler.best == 0.5


@pytest.mark.parametrize(
    "build",
    [
        lambda: WarmupMultiStepLR(optimizer_with(), (6, 8), warmup_iters=4),
        lambda: WarmupCosineAnnealingLR(optimizer_with(), 12, warmup_iters=4),
        lambda: plateau(warmup_iters=4),
    ],
)
def test_schedules_resume(build):
    whole = rates(build(), 12)
    first = build()
    beginning = rates(first, 5)
    second = build()
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    assert beginning + rates(second, 7) == pytest.approx(whole)


def decays(schedule: WeightDecaySchedule, steps: range) -> list[float]:
    seen = []
    for step in steps:
        schedule.step(step)
        seen.append(schedule.optimizer.param_groups[0]["weight_decay"])
    return seen


def test_weight_decay_drops_before_the_rate(caplog):
    schedule = WeightDecaySchedule(optimizer_with(), [6, 9], ratio=0.5, gamma=0.1)
    with caplog.at_level(logging.INFO):
        assert decays(schedule, range(1, 8)) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.01])
    assert [record.getMessage() for record in caplog.records] == [
        "Step 3: weight decay multiplied by 0.1",
        "Step 5: weight decay multiplied by 0.1",
    ]


def test_weight_decay_schedule_resumes():
    first = WeightDecaySchedule(optimizer_with(), [6, 9], ratio=0.5, gamma=0.1)
    decays(first, range(1, 5))
    second = WeightDecaySchedule(first.optimizer, [6, 9], ratio=0.5, gamma=0.1, steps=4)
    assert decays(second, range(5, 8)) == pytest.approx([0.01, 0.01, 0.01])


def test_weight_decay_schedule_of_glip_large():
    tree = default_config()
    tree.merge_from_file("configs/pretrain/glip_Swin_L.yaml")
    optimizer = optimizer_with()
    schedule = make_weight_decay_schedule(tree, optimizer, make_lr_scheduler(tree, optimizer))
    assert schedule is not None
    assert schedule.drops == pytest.approx([446890, 593630]) and schedule.next_drop == 0
    scheduler = make_lr_scheduler(tree, optimizer)
    scheduler.last_epoch = 446890  # of a checkpoint, whatever batches were left out on the way to it
    resumed = make_weight_decay_schedule(tree, optimizer, scheduler)
    assert resumed is not None and resumed.next_drop == 1
    tree.SOLVER.USE_COSINE = True
    assert make_weight_decay_schedule(tree, optimizer, make_lr_scheduler(tree, optimizer)) is None
    assert make_weight_decay_schedule(default_config(), optimizer, WarmupMultiStepLR(optimizer, (6,))) is None
