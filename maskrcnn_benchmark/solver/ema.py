"""A copy of the model whose weights are a moving average of the training model's."""

from collections.abc import Mapping
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.sharded_state import shard_like_model
from maskrcnn_benchmark.utils.weight_conversion import unwrap_model

_Place = tuple[dict, str]  # the parameters or buffers of a module, and a name among them


class _Move(NamedTuple):
    """Averages of one type on one device, and where they move to; `converts` if those are of another kind."""

    averages: list[Tensor]
    targets: list[Tensor]
    converts: bool


class ModelEma:
    """Keeps `ema = decay * ema + (1 - decay) * model` for every real-valued parameter and buffer.

    Other buffers, such as Swin's index tables, are copied, since averaging rounds them down.

    Args:
        model: the training model, with its weights loaded. Wrappers are looked through, see `unwrap_model`.
        decay: 0 follows the model, towards 1 remembers longer.
        device: where the copy lives; None or "" for the model's own.
        copied: a module of the same kind to hold the average, where `model` is sharded and cannot be copied.

    Attributes: ema, the copy, frozen and in evaluation mode.
    Raises: ValueError if the decay is not in [0, 1).
    """

    def __init__(
        self,
        model: nn.Module,
        decay: float = 0.9999,
        device: torch.device | str | None = None,
        *,
        copied: nn.Module | None = None,
    ):
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of a moving average lies in [0, 1), got {decay}")
        self.decay = decay
        self.ema = deepcopy(unwrap_model(model)) if copied is None else copied
        self.ema.eval()
        self.ema.requires_grad_(False)
        if device:
            self.ema.to(device)
        self._source: nn.Module | None = None
        self._pairs: list[tuple[_Place, _Place]] = []
        self._moves: list[_Move] = []
        self._moves_are_for: list[object] = []
        if copied is not None:
            copied.load_state_dict(unwrap_model(model).state_dict())

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards `model`; call it after every step of the optimizer."""
        model = unwrap_model(model)
        if self._source is not model:
            self._source, self._pairs = model, _pair_places(self.ema, model)
        averages = [owner[name] for (owner, name), _ in self._pairs]
        targets = [owner[name] for _, (owner, name) in self._pairs]
        if not averages:
            return
        # The lists hold as long as the tensors are the same objects, and were not moved all together.
        are_for = [*map(id, averages), *map(id, targets), *_format(averages[0]), *_format(targets[0])]
        if self._moves_are_for != are_for:
            self._moves, are_lasting = _moves(averages, targets)
            self._moves_are_for = are_for if are_lasting else []
        for move in self._moves:
            sources = move.targets
            if move.converts:
                sources = [target.to(move.averages[0]) for target in sources]
            if move.averages[0].is_floating_point():
                torch._foreach_lerp_(move.averages, sources, 1 - self.decay)
            else:
                torch._foreach_copy_(move.averages, sources)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights, under the model's own names; checkpoints keep them under the key "model_ema"."""
        return self.ema.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores averaged weights when training resumes; names may have the prefix "module."."""
        named = {name.removeprefix("module."): value for name, value in state.items()}
        self.ema.load_state_dict(shard_like_model(named, self.ema.state_dict()))


def _pair_places(average: nn.Module, model: nn.Module) -> list[tuple[_Place, _Place]]:
    """Where every entry of the state dict lies in both. Looked up once: making state dicts takes longer than a step.

    A tensor with several names, such as tied weights, is there once.
    """
    places, sources = _places(average), _places(model)
    if places.keys() != sources.keys():
        raise ValueError(f"the averaged model differs in {sorted(places.keys() ^ sources.keys())[:8]}")
    pairs = {id(owner[entry]): ((owner, entry), sources[name]) for name, (owner, entry) in places.items()}
    return list(pairs.values())


def _moves(averages: list[Tensor], targets: list[Tensor]) -> tuple[list[_Move], bool]:
    """What to do in a few calls, and whether that is so for as long as the tensors are: not if some are sharded."""
    moves: dict[tuple, _Move] = {}
    are_lasting = True
    for average, target in zip(averages, targets, strict=True):
        own, other = comm.local_part(average), comm.local_part(target)
        are_lasting &= own is average and other is target
        kinds = (*_format(own), *_format(other))
        move = moves.setdefault(kinds, _Move([], [], converts=_format(own) != _format(other)))
        move.averages.append(own)
        move.targets.append(other)
    return list(moves.values()), are_lasting


def _format(tensor: Tensor) -> tuple[torch.dtype, torch.device]:
    return tensor.dtype, tensor.device


def _places(module: nn.Module) -> dict[str, _Place]:
    names = module.state_dict().keys()
    places: dict[str, _Place] = {}
    for prefix, owner in module.named_modules():
        for tensors in (owner._parameters, owner._buffers):
            places |= {f"{prefix}.{name}" if prefix else name: (tensors, name) for name in tensors}
    return {name: places[name] for name in names}
