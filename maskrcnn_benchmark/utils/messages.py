"""Texts of messages that repeat what somebody gave."""

from collections.abc import Sequence


def first_of(texts: Sequence[str], most: int = 3) -> str:
    """The first texts with "; " between them, and how many more there are."""
    more = [f"{len(texts) - most} more"] if len(texts) > most else []
    return "; ".join([*texts[:most], *more])


def shortened(text: str, length: int) -> str:
    """The text, or where it is longer its first `length` characters and dots."""
    return text if len(text) <= length else f"{text[:length]}..."
