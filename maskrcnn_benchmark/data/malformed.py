"""Annotations that lack something, or hold something of another kind, told with the place where they stand."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def malformed_annotations_named(place: Callable[[], str]) -> Iterator[None]:
    """Within the block, what only Python finds wrong with annotations comes with their place, in one line.

    Args:
        place: names the dataset or the item; only asked where something is wrong.
    Raises: ValueError in place of LookupError, TypeError and AttributeError.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{place()}: malformed annotations ({type(error).__name__}: {error})") from error
