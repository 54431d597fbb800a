"""A name-to-builder table: configuration strings select code through it, and a wrong string lists the right ones."""

import difflib
from collections.abc import Callable
from typing import Any


class RegistryKeyError(KeyError, ValueError):
    """An unknown name was looked up; a KeyError for mapping code, a ValueError because the caller's value is wrong."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would print the repr, quotes and escapes included


class DuplicateNameError(ValueError, AssertionError):
    """A name was registered twice; an AssertionError too, for code that expects the original's."""


class Registry(dict):
    """Dictionary filled with ``register``, as a decorator or as a call.

    >>> BODIES = Registry(kind="conv body")
    >>> @BODIES.register("SWINT")
    ... def build_swin(cfg): ...
    >>> _ = BODIES.register("LAMBDA", lambda cfg: None)

    Args:
        entries, named: what a dictionary is made of.
        kind: what the names stand for, used in error messages.
    Raises: DuplicateNameError when a name is registered twice; RegistryKeyError when an unknown name is looked up.
    """

    def __init__(self, *entries: Any, kind: str = "entry", **named: Any) -> None:
        super().__init__(*entries, **named)
        self.kind = kind

    def register(self, name: str, obj: Any = None) -> Callable[[Any], Any] | Any:
        """Store ``obj`` under ``name`` and return it; without ``obj`` return a decorator that does so."""
        if obj is None:
            return lambda decorated: self.register(name, decorated)
        if name in self:
            raise DuplicateNameError(f"{self.kind} {name!r} is already registered (as {self[name]!r})")
        self[name] = obj
        return obj

    def __missing__(self, name: object) -> Any:
        message = f"unknown {self.kind} {name!r}; known: {', '.join(sorted(map(str, self))) or 'none'}"
        close = difflib.get_close_matches(str(name), [str(key) for key in self], n=1)
        raise RegistryKeyError(f"{message}. Did you mean {close[0]!r}?" if close else message)
