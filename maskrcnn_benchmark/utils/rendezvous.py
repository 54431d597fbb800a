"""A fresh start for processes that meet through a store which older, ended processes have used before.

torchrun keeps one store when it restarts its workers (seen with PyTorch 2.11). A new worker would find the addresses of
the old ones there, and fail to reach them or wait for ever.
"""

import json
import time
import uuid
from datetime import timedelta
from typing import Protocol

POLL_S = 0.02


class Store(Protocol):
    """What is used of ``torch.distributed.Store``."""

    def set(self, key: str, value: str, /) -> None: ...
    def get(self, key: str, /) -> bytes: ...
    def check(self, keys: list[str], /) -> bool: ...


def agree_on_prefix(store: Store, rank: int, world_size: int, timeout: timedelta) -> str:
    """A name that the processes now starting have in common, and that none before them had.

    Every process leaves a number drawn at random; rank 0 answers with the numbers it sees and the name, again and again
    while numbers change, until all have said that they know the name. An old answer lacks the own number.

    Raises: TimeoutError when processes do not come.
    """
    own, last_s = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    if rank > 0:
        store.set(f"start/{rank}", own)
        while True:
            answer = json.loads(store.get("start/answer")) if store.check(["start/answer"]) else {}
            if answer.get("numbers", {}).get(str(rank)) == own:
                store.set(f"{answer['prefix']}/{rank}", "known")
                return str(answer["prefix"])
            _wait(last_s, "rank 0 did not answer")
    answered: dict[str, str] = {}
    while missing := [other for other in range(1, world_size) if not store.check([f"{own}/{other}"])]:
        here = [other for other in range(1, world_size) if store.check([f"start/{other}"])]
        numbers = {str(other): store.get(f"start/{other}").decode() for other in here}
        if numbers != answered:
            store.set("start/answer", json.dumps({"prefix": own, "numbers": numbers}))
            answered = numbers
        _wait(last_s, f"of {world_size} processes, ranks {missing} did not start")
    return own


def _wait(last_s: float, problem: str) -> None:
    if time.monotonic() > last_s:
        raise TimeoutError(f"processes did not meet: {problem}")
    time.sleep(POLL_S)
