"""States of sharded models and optimizers in the form of checkpoints, where every tensor is whole."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from maskrcnn_benchmark.utils import comm


def whole_state(state: Any, *, keep: bool = True) -> Any:
    """Nested dicts and lists with the shards in them put together, on the CPU; all processes must call it.

    Args:
        keep: whether this process needs the result; where it does not, None stands for each tensor that was sharded.
    """
    if isinstance(state, Tensor):
        if not comm.is_sharded(state):
            return state
        whole = comm.full_tensor(state.detach())
        return whole.cpu() if keep else None
    if isinstance(state, Mapping):
        return {name: whole_state(value, keep=keep) for name, value in state.items()}
    if isinstance(state, list | tuple) and not hasattr(state, "_fields"):
        return type(state)(whole_state(value, keep=keep) for value in state)
    return state


def shard_like_model(state: Mapping[str, Tensor], model_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a state dict, cut as those of the same name in `model_state` are."""
    return {
        name: comm.shard_like(value, model_state[name]) if name in model_state else value
        for name, value in state.items()
    }


def shard_like_optimizer(state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """The state dict of an optimizer with whole tensors, those of the parameters' shapes cut as the parameters are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    cut = {
        index: {
            name: comm.shard_like(value, parameters[index])
            if isinstance(value, torch.Tensor) and value.shape == parameters[index].shape
            else value
            for name, value in entries.items()
        }
        for index, entries in state["state"].items()
        if index < len(parameters)
    }
    return {**state, "state": cut}
