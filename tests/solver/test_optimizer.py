import copy
import io
import json

import golden_tools
import pytest
import torch
from named_parameters import NamedParameters
from torch import nn
from torch.optim import SGD, AdamW

from maskrcnn_benchmark.config import default_config
from maskrcnn_benchmark.solver import clip_before_step, learning_rates, make_optimizer
from maskrcnn_benchmark.solver.optimizer import GroupMerger, MergedAdamW, MergedSGD
from maskrcnn_benchmark.solver.param_groups import GroupRules, parameter_groups

RULES = GroupRules(base_lr=1.0, weight_decay=0.1, lang_lr=0.01, backbone_body_lr_factor=0.5, weight_decay_norm_factor=3)


def goldg():
    tree = default_config()
    tree.merge_from_file("configs/pretrain/glip_Swin_T_O365_GoldG.yaml")
    return tree


@pytest.mark.parity
def test_groups_of_goldg_are_the_recorded_ones():
    recorded = json.loads(golden_tools.golden_path("optimizer_groups_glip_Swin_T_O365_GoldG.json").read_text())
    names = [group["name"] for group in recorded["groups"]]
    model = NamedParameters([*names, "rpn.head.cls_logits.weight"], device="meta")
    model.get_parameter("rpn.head.cls_logits.weight").requires_grad_(False)

    optimizer = make_optimizer(goldg(), model)
    assert isinstance(optimizer, AdamW)
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert len(groups) == len(optimizer.param_groups) == len(recorded["groups"]) == 726
    for expected in recorded["groups"]:
        group = groups[expected["name"]]
        assert group["params"] == [model.get_parameter(expected["name"])]
        assert list(group["betas"]) == expected["betas"] and group["eps"] == expected["eps"]
        assert group["lr"] == pytest.approx(expected["lr"], rel=1e-12), expected["name"]
        assert group["weight_decay"] == expected["weight_decay"], expected["name"]
    assert len(GroupMerger(tuple(optimizer.defaults))(optimizer.param_groups)) == 4


@pytest.mark.parametrize(
    ("name", "rate", "decay"),
    [
        ("rpn.head.tower.0.weight", 1.0, 0.1),
        ("rpn.head.bias_lang", 2.0, 0.0),
        ("rpn.head.tower.0.bn.weight", 1.0, 0.1),
        ("backbone.body.layers.0.weight", 0.5, 0.1),
        ("backbone.body.layers.0.attn.relative_position_bias_table", 1.0, 0.0),
        ("backbone.body.norm0.weight", 0.5, 0.3),
        ("backbone.fpn.inner.bias", 2.0, 0.0),
        ("language_backbone.body.model.pooler.weight", 0.01, 0.1),
        ("language_backbone.body.LayerNorm.weight", 0.01, 0.3),
        ("language_backbone.body.LayerNorm.bias", 0.02, 0.0),
    ],
)
def test_rules_by_name(name, rate, decay):
    assert RULES.rate_and_decay(name) == pytest.approx((rate, decay))


def test_rates_of_the_parts_of_a_model():
    names = ["backbone.x.bias", "backbone.x.weight", "backbone.body.x.weight", "language_backbone.x.weight"]
    groups = parameter_groups([(name, nn.Parameter(torch.ones(1))) for name in names], RULES)
    assert learning_rates(SGD(groups, lr=9.0)) == {"lr/backbone": 1.0, "lr/language_backbone": 0.01}
    assert learning_rates(SGD([torch.ones(1, requires_grad=True)], lr=9.0)) == {}, "groups without names"


@pytest.mark.parametrize("kind", ["SGD", "ADAMW"])
def test_parameters_that_are_added_later_have_the_last_rate(kind):
    tree = goldg()
    tree.SOLVER.OPTIMIZER = kind
    optimizer = make_optimizer(tree, NamedParameters(["rpn.weight", "language_backbone.bias"]))
    assert optimizer.defaults["lr"] == pytest.approx(2e-5)


def test_a_frozen_model_is_an_error():
    model = nn.Linear(1, 1).requires_grad_(False)
    with pytest.raises(ValueError, match="every parameter of the model is frozen"):
        make_optimizer(goldg(), model)


def test_unknown_optimizer_and_clipping_list_the_known():
    tree = goldg()
    tree.SOLVER.OPTIMIZER = "LAMB"
    with pytest.raises(ValueError, match="'LAMB'; known: SGD, ADAMW"):
        make_optimizer(tree, nn.Linear(1, 1))
    tree = goldg()
    tree.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full"
    with pytest.raises(ValueError, match="'full'; known: full_model, norm, value"):
        make_optimizer(tree, nn.Linear(1, 1))
    with pytest.raises(ValueError, match="cannot be clipped to -1"):
        clip_before_step(make_optimizer(goldg(), nn.Linear(1, 1)), "norm", -1)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3), nn.Linear(3, 2))


def train(optimizer, model, steps: int = 5) -> None:
    generator, device = torch.Generator().manual_seed(1), next(model.parameters()).device
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(6, 4, generator=generator).to(device)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("merged", "plain", "options"),
    [
        (MergedAdamW, AdamW, {}),
        (MergedSGD, SGD, {"momentum": 0.9}),
        (MergedAdamW, AdamW, {"foreach": True}),
        (MergedAdamW, AdamW, {"fused": True}),
    ],
)
def test_merged_execution_equals_separate_groups(merged, plain, options, device):
    ours, theirs = network().to(device), network().to(device)
    rules = GroupRules(base_lr=0.01, weight_decay=0.1)
    optimizer = merged(parameter_groups(ours.named_parameters(), rules), **options)
    reference = plain(parameter_groups(theirs.named_parameters(), rules), **options)
    for current in (optimizer, reference):
        torch.optim.lr_scheduler.LambdaLR(current, lambda step: 0.5**step)
    train(optimizer, ours)
    train(reference, theirs)
    for got, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(got, expected)
    assert len(optimizer.param_groups) == 8

    # Checkpoints of either load into the other.
    reference.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.load_state_dict(copy.deepcopy(reference.state_dict()))
    train(optimizer, ours)
    train(reference, theirs)
    for got, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("is_fused", [False, True])
def test_a_checkpoint_does_not_decide_how_steps_are_executed(is_fused, device):
    """A run may go on where the other kind of optimizer saved it, as on a machine with or without a GPU."""

    def optimizer_of(model: nn.Module, **options) -> MergedAdamW:
        return MergedAdamW(parameter_groups(model.named_parameters(), GroupRules(base_lr=0.01)), **options)

    first, second = network().to(device), network().to(device)
    saving = optimizer_of(first, fused=not is_fused or None)
    train(saving, first)
    second.load_state_dict(first.state_dict())
    loading = optimizer_of(second, fused=is_fused or None)
    saving.param_groups[0]["lr"] = 0.02
    file = io.BytesIO()
    torch.save(saving.state_dict(), file)
    file.seek(0)
    loading.load_state_dict(torch.load(file, map_location="cpu"))
    assert loading.param_groups[0]["lr"] == 0.02, "settings that are not about execution are taken over"
    assert {group["fused"] for group in loading.param_groups} == {is_fused or None}
    step_device = device.type if is_fused else "cpu"
    assert {loading.state[parameter]["step"].device.type for parameter in second.parameters()} == {step_device}
    train(saving, first)
    train(loading, second)
    for got, expected in zip(second.parameters(), first.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)  # other kernels, other roundings

    with pytest.raises(ValueError, match="of 2 trained parameters, this run trains 8"):
        loading.load_state_dict(optimizer_of(nn.Linear(1, 1)).state_dict())


def test_groups_are_restored_when_a_step_fails(monkeypatch):
    model = network()
    optimizer = MergedSGD(parameter_groups(model.named_parameters(), RULES), momentum=0.9)
    hooks = optimizer._optimizer_step_pre_hooks
    monkeypatch.setattr(SGD, "step", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    assert len(optimizer.param_groups) == 8
    assert optimizer._optimizer_step_pre_hooks is hooks


def test_closures_are_evaluated_with_gradients():
    model = network()
    optimizer = MergedSGD(parameter_groups(model.named_parameters(), RULES))

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(1, 4)).square().sum()
        loss.backward()
        return loss

    before = closure().item()
    assert optimizer.step(closure).item() == pytest.approx(before)
    assert closure().item() != pytest.approx(before)


def gradients_seen_by_step(clip_type: str, limit: float) -> list[torch.Tensor]:
    AdamW([nn.Parameter(torch.zeros(1))])  # makes torch install its hooks in the plain class, too
    model = network()
    optimizer = MergedAdamW(parameter_groups(model.named_parameters(), RULES))
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append(1))
    clip_before_step(optimizer, clip_type, limit)
    train(optimizer, model, steps=1)
    assert calls == [1]
    return [parameter.grad for parameter in model.parameters()]


def unclipped() -> list[torch.Tensor]:
    model = network()
    train(MergedAdamW(parameter_groups(model.named_parameters(), RULES)), model, steps=1)
    return [parameter.grad for parameter in model.parameters()]


def norm(gradients) -> float:
    return torch.cat([gradient.flatten() for gradient in gradients]).norm().item()


def test_clipping_the_full_model():
    before, after = unclipped(), gradients_seen_by_step("full_model", 1.0)
    scale = norm(before)
    assert scale > 1
    assert norm(after) == pytest.approx(1.0, rel=1e-5)
    for got, gradient in zip(after, before, strict=True):
        torch.testing.assert_close(got, gradient / scale, rtol=1e-4, atol=1e-7)
    for got, gradient in zip(gradients_seen_by_step("full_model", 1e6), before, strict=True):
        torch.testing.assert_close(got, gradient)


def test_clipping_each_parameter():
    before = unclipped()
    limit = sorted(gradient.norm().item() for gradient in before)[len(before) // 2]
    for got, gradient in zip(gradients_seen_by_step("norm", limit), before, strict=True):
        expected = gradient * min(1.0, limit / gradient.norm().item())
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-7)
    for got, gradient in zip(gradients_seen_by_step("value", 0.5), before, strict=True):
        torch.testing.assert_close(got, gradient.clamp(-0.5, 0.5))


def test_configured_clipping_acts_on_unscaled_gradients(device):
    """With a gradient scaler the step still sees gradients of norm 1."""
    model = network().to(device)
    optimizer = make_optimizer(goldg(), model)
    scaler = torch.amp.GradScaler(device.type, init_scale=1024.0)
    scaler.scale(model(torch.ones(2, 4, device=device)).square().sum() * 100).backward()
    scaler.step(optimizer)
    assert norm(parameter.grad for parameter in model.parameters()) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize(("clip_type", "limit"), [("full_model", 0.5), ("norm", 0.5), ("value", 0.05)])
@pytest.mark.parametrize("is_fused", [False, True])
@pytest.mark.parametrize("is_unscaled_before", [False, True])
def test_the_loss_scale_changes_no_clipped_step(clip_type, limit, is_fused, is_unscaled_before, device):
    """Fused steps unscale by themselves, after the clipping, unless it has been done before."""

    def weights_after_steps(scale: float | None, factors: tuple[float, ...]) -> torch.Tensor:
        model = network().to(device)
        groups = parameter_groups(model.named_parameters(), GroupRules(base_lr=0.01))
        optimizer = MergedAdamW(groups, eps=0.1, fused=is_fused or None)  # eps: or the size of gradients hardly matters
        clip_before_step(optimizer, clip_type, limit)
        scaler = torch.amp.GradScaler(device.type, init_scale=scale or 1.0, enabled=scale is not None)
        for factor in factors:
            optimizer.zero_grad()
            scaler.scale(model(torch.ones(2, 4, device=device)).square().sum() * factor).backward()
            if is_unscaled_before:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    expected = weights_after_steps(None, (1.0, 2.0))
    torch.testing.assert_close(weights_after_steps(1024.0, (1.0, 2.0)), expected, rtol=1e-6, atol=1e-7)
    skipping = weights_after_steps(1024.0, (1.0, torch.inf, 2.0))
    torch.testing.assert_close(skipping, expected, rtol=1e-6, atol=1e-7)
