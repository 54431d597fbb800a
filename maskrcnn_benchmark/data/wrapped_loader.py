"""A loader around another one, for those that change or watch its batches."""

from collections.abc import Iterator
from typing import Any


class WrappedLoader:
    """Passes the batches of a loader on; what it does not define itself is the loader's (`batch_sampler`, ...)."""

    def __init__(self, loader: Any):
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # not there yet while being unpickled
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)
