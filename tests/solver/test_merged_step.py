"""Steps of merged groups against torch's own with one group per parameter, to the bit, and what they cost."""

import copy
from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.utils._python_dispatch import TorchDispatchMode

from maskrcnn_benchmark.engine.training.guarded_step import GuardedStep
from maskrcnn_benchmark.solver import ModelEma, clip_before_step
from maskrcnn_benchmark.solver.loss_scale import LossScaler
from maskrcnn_benchmark.solver.optimizer import GroupMerger, MergedAdamW, MergedSGD
from maskrcnn_benchmark.utils import comm

KINDS = {
    "adamw": (MergedAdamW, AdamW, {}),
    "adamw foreach": (MergedAdamW, AdamW, {"foreach": True}),
    "adamw fused": (MergedAdamW, AdamW, {"fused": True}),
    "adamw amsgrad": (MergedAdamW, AdamW, {"amsgrad": True}),
    "sgd": (MergedSGD, SGD, {"momentum": 0.9}),
    "sgd fused": (MergedSGD, SGD, {"momentum": 0.9, "fused": True}),
    "sgd nesterov": (MergedSGD, SGD, {"momentum": 0.9, "nesterov": True}),
    "sgd without momentum": (MergedSGD, SGD, {}),
}
SHAPES = [(3, 4), (5,), (2, 3, 2), (1,), (7, 2), (4,)]


def parameters_of(device: torch.device, dtypes: tuple[torch.dtype, ...] = (torch.float32,)) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    kinds = [dtypes[i % len(dtypes)] for i in range(len(SHAPES))]
    return [
        nn.Parameter(torch.randn(shape, generator=generator).to(device, dtype))
        for shape, dtype in zip(SHAPES, kinds, strict=True)
    ]


def groups_of(parameters: list[nn.Parameter]) -> list[dict]:
    """One for each; every other one decays and has the double rate."""
    return [
        {"params": [one], "name": str(i), "lr": 0.01 * (1 + i % 2), "weight_decay": 0.1 * (i % 2)}
        for i, one in enumerate(parameters)
    ]


def give_gradients(parameters: list[nn.Parameter], step: int, *, without: int | None = None) -> None:
    generator = torch.Generator().manual_seed(step)
    for i, one in enumerate(parameters):
        one.grad = None if i == without else torch.randn(one.shape, generator=generator).to(one)


class Twins:
    """The same parameters under an optimizer of ours and torch's own."""

    def __init__(self, kind: str, device: torch.device):
        merged, plain, options = KINDS[kind]
        self.parameters = [parameters_of(device) for _ in range(2)]
        self.optimizers = [
            make(groups_of(parameters), **options)
            for make, parameters in zip((merged, plain), self.parameters, strict=True)
        ]

    def step(self, step: int, *, without: int | None = None) -> None:
        for parameters, optimizer in zip(self.parameters, self.optimizers, strict=True):
            give_gradients(parameters, step, without=without)
            optimizer.step()
        for ours, theirs in zip(*self.parameters, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_groups_meet_and_part_as_schedules_go(kind, device):
    twins = Twins(kind, device)
    factors = [lambda step, i=i: 1.0 if step < 2 else 1 / (i + 1) if step < 4 else 0.5 ** (1 + i % 2) for i in range(6)]
    schedulers = [torch.optim.lr_scheduler.LambdaLR(optimizer, factors) for optimizer in twins.optimizers]
    expected = [2, 2, 6, 6, 2, 2]  # from step 4 on all rates are equal, decays are not
    for step in range(6):
        twins.step(step)
        ours = twins.optimizers[0]
        assert len(GroupMerger(tuple(ours.defaults))(ours.param_groups)) == expected[step]
        for scheduler in schedulers:
            scheduler.step()
        if step == 4:
            for optimizer in twins.optimizers:
                optimizer.param_groups[0]["weight_decay"] = 0.3
            expected[5] = 3


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "sgd fused"])  # where torch's own gives up
def test_parameters_without_a_gradient_are_left_alone(kind, device):
    twins = Twins(kind, device)
    for step, without in enumerate([None, 2, 2, 0, None, 2]):
        twins.step(step, without=without)
    for optimizer, parameters in zip(twins.optimizers, twins.parameters, strict=True):
        parameters[1].requires_grad_(False)  # frozen later
        assert len(optimizer.param_groups) == 6
    for step in range(6, 9):
        before = twins.parameters[0][1].clone()
        twins.step(step, without=1)
        assert torch.equal(twins.parameters[0][1], before)


def test_fused_momentum_of_late_gradients(device):
    """The same as without the fused kernel, where each parameter's momentum begins with its own first gradient."""
    runs = []
    for fused in (True, None):
        parameters = parameters_of(device)
        optimizer = MergedSGD(groups_of(parameters), momentum=0.9, fused=fused)
        for step, without in enumerate([2, 2, None, 4, None]):
            give_gradients(parameters, step, without=without)
            optimizer.step()
        runs.append(parameters)
    torch.testing.assert_close(*runs)


@pytest.mark.parametrize("kind", KINDS)
def test_added_groups_and_states_of_the_other_kind(kind, device):
    twins = Twins(kind, device)
    twins.step(0)
    if kind != "sgd fused":  # torch's own cannot take in parameters later
        for parameters, optimizer in zip(twins.parameters, twins.optimizers, strict=True):
            parameters.append(nn.Parameter(torch.ones(2, 2, device=device)))
            optimizer.add_param_group({"params": [parameters[-1]], "name": "more", "lr": 0.5})
        twins.step(1)
    ours, theirs = (copy.deepcopy(optimizer.state_dict()) for optimizer in twins.optimizers)
    assert ours["param_groups"] == theirs["param_groups"]
    torch.testing.assert_close(ours["state"], theirs["state"], rtol=0, atol=0)
    twins.optimizers[0].load_state_dict(theirs)
    twins.optimizers[1].load_state_dict(ours)
    twins.step(2)
    twins.optimizers[0].param_groups[0]["lr"] = twins.optimizers[1].param_groups[0]["lr"] = 0.3
    twins.step(3)


def test_states_that_are_exchanged_between_steps_are_used(device):
    twins = Twins("adamw", device)
    for step in range(4):
        twins.step(step)
        for parameters, optimizer in zip(twins.parameters, twins.optimizers, strict=True):
            optimizer.state[parameters[0]]["exp_avg"] = torch.zeros_like(parameters[0])
            optimizer.state[parameters[1]].clear()


def test_copies_of_an_optimizer_step_by_themselves():
    parameters = parameters_of(torch.device("cpu"))
    optimizer = MergedAdamW(groups_of(parameters))
    give_gradients(parameters, 0)
    optimizer.step()
    copied = copy.deepcopy(optimizer)
    before = [one.clone() for one in parameters]
    for group in copied.param_groups:
        group["params"][0].grad = torch.ones_like(group["params"][0])
    copied.step()
    assert all(torch.equal(one, old) for one, old in zip(parameters, before, strict=True))
    assert not any(torch.equal(group["params"][0], old) for group, old in zip(copied.param_groups, before, strict=True))


@pytest.mark.parametrize("dtypes", [(torch.float32,), (torch.float32, torch.float64)])
@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_clipping_is_that_of_torch(dtypes, limit, device):
    seen: dict[str, list[Tensor]] = {}
    for clip_type in ("full_model", "norm"):
        parameters = parameters_of(device, dtypes)
        optimizer = MergedSGD(groups_of(parameters))
        clip_before_step(optimizer, clip_type, limit)
        give_gradients(parameters, 1)
        optimizer.step()
        seen[clip_type] = [one.grad for one in parameters]

        parameters = parameters_of(device, dtypes)
        give_gradients(parameters, 1)
        for together in [parameters] if clip_type == "full_model" else [[one] for one in parameters]:
            torch.nn.utils.clip_grad_norm_(together, limit)
        for got, one in zip(seen[clip_type], parameters, strict=True):
            if clip_type == "full_model":
                assert torch.equal(got, one.grad)
            torch.testing.assert_close(got, one.grad)


@pytest.mark.parametrize("dtypes", [(torch.float32,), (torch.float32, torch.float64)])
@pytest.mark.parametrize("bad", [None, torch.inf, torch.nan])
def test_loss_scale_is_that_of_torch(dtypes, bad, device):
    outcomes = []
    for scaler_type in (LossScaler, torch.amp.GradScaler):
        parameters = parameters_of(device, dtypes)
        optimizer = MergedAdamW(groups_of(parameters))
        scaler = scaler_type(device.type, init_scale=1024.0)
        scaler.scale(torch.ones(1, device=device))
        give_gradients(parameters, 1)
        if bad is not None:
            parameters[-1].grad[0] = bad
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        outcomes.append(([one.detach() for one in parameters], scaler.state_dict()))
        assert scaler.state_dict()["scale"] == (1024.0 if bad is None else 512.0)
    torch.testing.assert_close(*outcomes, rtol=0, atol=0)


def test_gradients_of_16_bits_are_refused():
    parameter = nn.Parameter(torch.ones(2, dtype=torch.float16))
    parameter.grad = torch.ones_like(parameter)
    scaler = LossScaler("cpu")
    scaler.scale(torch.ones(1))
    with pytest.raises(ValueError, match="unscale FP16 gradients"):
        scaler.unscale_(MergedSGD([parameter]))


@pytest.mark.parametrize("use_loss_scale", [False, True])
@pytest.mark.parametrize("kind", ["adamw fused", "sgd fused", "sgd"])
def test_a_first_step_that_is_skipped_leaves_no_trace(kind, use_loss_scale, device):
    merged, _, options = KINDS[kind]

    def run(factors: list[float]) -> list[Tensor]:
        parameters = parameters_of(device)
        step = GuardedStep(merged(groups_of(parameters), **options), device, use_loss_scale)
        for factor in factors:
            step(torch.stack([one.square().sum() for one in parameters]).sum() * factor)
        return [one.detach() for one in parameters]

    torch.testing.assert_close(run([torch.nan, 1.0, 1.0]), run([1.0, 1.0]), rtol=0, atol=0)


class Calls(TorchDispatchMode):
    """Counts the operators that reach the device."""

    def __init__(self):
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[str(function)] += 1
        return function(*args, **(kwargs or {}))


class Vectors(nn.Module):
    """Many parameters, and as many buffers of both kinds."""

    def __init__(self, count: int):
        super().__init__()
        self.vectors = nn.ParameterList(nn.Parameter(torch.randn(2)) for _ in range(count))
        for i in range(count):
            self.register_buffer(f"mean_{i}", torch.zeros(2))
            self.register_buffer(f"index_{i}", torch.arange(2))


@pytest.mark.parametrize("use_loss_scale", [False, True])
@pytest.mark.parametrize("clip_type", ["full_model", "norm", "value"])
@pytest.mark.parametrize("make", [MergedAdamW, MergedSGD])
def test_calls_do_not_grow_with_the_number_of_parameters_and_none_waits(make, clip_type, use_loss_scale):
    def calls(count: int) -> Counter[str]:
        model = Vectors(count)
        optimizer = make(groups_of(list(model.vectors)), fused=True)
        clip_before_step(optimizer, clip_type, 1.0)
        average = ModelEma(model, 0.9)
        step = GuardedStep(optimizer, torch.device("cpu"), use_loss_scale)
        for _ in range(2):
            step.begin()
            step.backward(torch.stack([one.sum() for one in model.vectors]).sum())
            with Calls() as counter:
                step.finish()
                average.update(model)
        return counter.counts

    few, many = calls(6), calls(60)
    assert few == many
    assert many.total() <= 50
    assert not any("_local_scalar_dense" in name or "is_nonzero" in name for name in many)
    kernel = "_fused_adamw_" if make is MergedAdamW else "_fused_sgd_"
    assert sum(number for name, number in many.items() if kernel in name) == 2, "one for each kind of group"
    assert many["aten._foreach_lerp_.Scalar"] == many["aten._foreach_copy_.default"] == 1


@pytest.fixture
def alone(tmp_path):
    """A group of one process."""
    comm.init_distributed(f"file://{tmp_path}/store", rank=0, world_size=1, device=torch.device("cpu"))
    yield
    comm.destroy_distributed()


@pytest.mark.parametrize("clip_type", ["full_model", "norm"])
@pytest.mark.parametrize("kind", ["adamw", "adamw fused", "sgd"])
def test_sharded_parameters(kind, clip_type, alone):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    merged, _, options = KINDS[kind]
    mesh = init_device_mesh("cpu", (1,))
    runs = []
    for is_sharded in (False, True):
        model = nn.ParameterList(parameters_of(torch.device("cpu")))
        if is_sharded:
            model = nn.ParameterList(nn.Parameter(distribute_tensor(one.detach(), mesh, [Shard(0)])) for one in model)
        optimizer = merged(groups_of(list(model)), **options)
        clip_before_step(optimizer, clip_type, 0.5)
        average = ModelEma(model, 0.9)
        step = GuardedStep(optimizer, torch.device("cpu"), use_loss_scale=False)
        for factor in (1.0, torch.nan, 2.0):
            step.begin()
            for one in model:
                step.backward(comm.full_tensor(one.square().sum() * factor))
            step.finish()
            average.update(model)
        runs.append([comm.full_tensor(one).detach() for one in (*model, *average.ema)])
    torch.testing.assert_close(*runs)
