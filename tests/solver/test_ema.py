import pytest
import torch
from torch import nn

from maskrcnn_benchmark.solver import ModelEma


class Network(nn.Module):
    def __init__(self, value: float):
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), value))
        self.low = nn.Parameter(torch.full((2,), value, dtype=torch.float16))
        self.register_buffer("mean", torch.full((2,), value))
        self.register_buffer("index", torch.arange(600))
        self.register_buffer("mask", torch.tensor([True, False]))

    def forward(self, x):
        return x


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.9999])
def test_average_of_real_values_and_copy_of_others(decay, device):
    model = Network(1.0).to(device)
    average = ModelEma(model, decay)
    with torch.no_grad():
        for tensor in (model.weight, model.low, model.mean):
            tensor.fill_(2.0)
        model.index.add_(7)
        model.mask.logical_not_()
    average.update(model)
    expected = decay * 1.0 + (1 - decay) * 2.0
    state = average.state_dict()
    for name in ("weight", "mean"):
        torch.testing.assert_close(state[name], torch.full_like(state[name], expected))
    torch.testing.assert_close(state["low"], torch.full_like(state["low"], expected), rtol=2e-3, atol=0)
    assert torch.equal(state["index"], torch.arange(7, 607, device=device))
    assert state["mask"].tolist() == [False, True]


def test_integer_tables_survive_many_updates():
    """Averaging would decrement 153 of the 600 entries at the first update."""
    model = Network(1.0)
    average = ModelEma(model, 0.9)
    for _ in range(20):
        average.update(model)
    assert torch.equal(average.state_dict()["index"], torch.arange(600))
    assert average.state_dict()["index"].dtype == torch.int64


def test_the_copy_is_frozen_and_apart():
    model = Network(1.0).train()
    average = ModelEma(model, device="")
    assert not average.ema.training and model.training
    assert not any(parameter.requires_grad for parameter in average.ema.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        model.weight.fill_(9.0)
    assert average.ema.weight.tolist() == [1.0, 1.0, 1.0]


def test_a_resumed_average_continues():
    model, other = Network(1.0), Network(3.0)
    whole, first = ModelEma(model, 0.5), ModelEma(model, 0.5)
    whole.update(other)
    whole.update(model)
    first.update(other)
    resumed = ModelEma(Network(0.0), 0.5)
    resumed.load_state_dict({f"module.{name}": value for name, value in first.state_dict().items()})
    resumed.update(model)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict())


def test_wrapped_models_keep_plain_names():
    model = Network(1.0)
    average = ModelEma(nn.DataParallel(model), 0.5)
    average.update(nn.DataParallel(Network(3.0)))
    assert set(average.state_dict()) == set(model.state_dict())
    assert average.ema.weight.tolist() == [2.0, 2.0, 2.0]


def test_tied_weights_are_averaged_once(device):
    def tied(value: float) -> nn.Module:
        model = nn.ModuleDict({"first": nn.Linear(2, 2), "second": nn.Linear(2, 2)})
        model["second"].bias = model["first"].bias
        with torch.no_grad():
            model["first"].bias.fill_(value)
        return model.to(device)

    average = ModelEma(tied(1.0), 0.5)
    average.update(tied(3.0))
    assert average.ema["first"].bias is average.ema["second"].bias
    assert average.ema["first"].bias.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("decay", [1.0, -0.1, 2.0])
def test_decay_outside_its_range(decay):
    with pytest.raises(ValueError, match=f"got {decay}"):
        ModelEma(nn.Linear(1, 1), decay)


def test_tensors_that_are_exchanged_or_converted_between_updates_are_followed():
    """The lists of tensors are kept from one update to the next; each of these changes makes them void."""
    model = Network(1.0)
    average = ModelEma(model, 0.5)
    average.update(model)
    model.mean = torch.full((2,), 3.0)
    model.weight = nn.Parameter(torch.full((3,), 3.0))
    average.update(model)
    assert average.ema.weight.tolist() == [2.0] * 3 and average.ema.mean.tolist() == [2.0] * 2
    average.ema.double()
    average.update(model)
    assert average.ema.weight.dtype == torch.float64 and average.ema.weight.tolist() == [2.5] * 3
    model.double()
    average.update(model)
    assert average.ema.weight.tolist() == [2.75] * 3 and average.ema.mean.tolist() == [2.75] * 2


def test_a_model_without_tensors_has_no_average():
    average = ModelEma(nn.Identity())
    average.update(nn.Identity())
    assert average.state_dict() == {}
