"""Permissive loading by dotted suffix."""

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.utils.model_serialization import (
    align_and_update_state_dicts,
    load_state_dict,
    match_suffixes,
    strip_prefix_if_present,
)


def nested_model():
    model = nn.Module()
    model.block1 = nn.Module()
    model.block1.layer1 = nn.Linear(2, 3)
    model.layer2 = nn.Linear(3, 2)
    model.res = nn.Module()
    model.res.layer2 = nn.Linear(3, 2)
    return model


@pytest.mark.parametrize("parallel", [False, True])
def test_longest_suffix_wins(parallel):
    model = nn.DataParallel(nested_model()) if parallel else nested_model()
    stored = {
        "res.layer2.weight": torch.rand(2, 3),
        "layer2.bias": torch.rand(2),
        "layer1.bias": torch.rand(3),
        "layer2.weight": torch.rand(2, 3),
        "res.layer2.bias": torch.rand(2),
        "layer1.weight": torch.rand(3, 2),
    }
    load_state_dict(model, stored)
    inner = model.module if parallel else model
    own = inner.state_dict()
    for name, value in stored.items():
        target = "block1." + name if name.startswith("layer1") else name
        assert torch.equal(own[target], value), name
        assert own[target] is not value


def test_suffixes_end_at_dots():
    matches = match_suffixes(["a.layer_norm.weight", "b.norm.weight", "c.bias"], ["norm.weight", "weight"])
    assert matches == {"a.layer_norm.weight": "weight", "b.norm.weight": "norm.weight"}


def test_prefix_is_stripped_only_from_all_keys():
    assert strip_prefix_if_present({"module.a": 1, "module.module.b": 2}, "module.") == {"a": 1, "module.b": 2}
    assert strip_prefix_if_present({"module.a": 1, "b": 2}, "module.") == {"module.a": 1, "b": 2}
    assert strip_prefix_if_present({}, "module.") == {}


def test_other_shapes_and_unmatched_entries_keep_their_value_and_are_logged(caplog):
    own = {"x.weight": torch.zeros(2), "x.bias": torch.zeros(2), "y": torch.zeros(1)}
    assert align_and_update_state_dicts(own, {"weight": torch.ones(3), "bias": torch.ones(2)}) == 1
    assert {name: value.tolist() for name, value in own.items()} == {"x.weight": [0, 0], "x.bias": [1, 1], "y": [0]}
    assert "Skipped x.weight: the model has shape (2,), the file (3,) (weight)" in caplog.text
    assert "1 of 3 entries have no stored value: ['y']" in caplog.text


def test_nothing_in_common_is_an_error():
    with pytest.raises(ValueError, match="none of the 1 stored entries"):
        load_state_dict(nn.Linear(2, 2), {"gamma": torch.zeros(2)})
