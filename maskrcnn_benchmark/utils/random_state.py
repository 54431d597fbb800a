"""The state of every random generator that training draws from, in a form that a checkpoint can hold."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """States of Python's, numpy's and torch's generators, as tensors and plain numbers."""
    version, words, gauss = random.getstate()
    name, key, position, has_gauss, cached = cast(tuple, np.random.get_state(legacy=True))
    state = {
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "name": str(name),
            "key": torch.from_numpy(key.astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restores what `random_state` returned; a CUDA state is ignored where there is no CUDA."""
    python, from_numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    np.random.set_state(
        (
            from_numpy["name"],
            from_numpy["key"].numpy().astype(np.uint32),
            from_numpy["position"],
            from_numpy["has_gauss"],
            from_numpy["cached"],
        )
    )
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def seed_everything(seed: int) -> None:
    """Seeds Python's, numpy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the CPU generators for a block and puts back the states they had."""
    with OwnRandomness(seed).active():
        yield


class OwnRandomness:
    """A course of the CPU generators of its own, which goes on from one block to the next; the common one stays."""

    def __init__(self, seed: int):
        self._seed = seed
        self._states: tuple | None = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within the block the generators are in this course."""
        common = _cpu_states()
        if self._states is None:
            random.seed(self._seed)
            np.random.seed(self._seed % 2**32)
            torch.default_generator.manual_seed(self._seed)
        else:
            _set_cpu_states(self._states)
        try:
            yield
        finally:
            self._states = _cpu_states()
            _set_cpu_states(common)


def _cpu_states() -> tuple:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _set_cpu_states(states: tuple) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
