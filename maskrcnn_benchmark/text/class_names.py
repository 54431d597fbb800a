"""Class names as they stand in a caption, and how a line of text lists them."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence

_CLASS_SEPARATORS = re.compile(r"[;\n\r。；]|(?<!\d)\.|\.(?!\d)")  # a point between digits belongs to a number
_COMMAS = re.compile(r"[,，、]")
_CONTENT = ("L", "N", "So")  # Unicode categories that name something: letters, numbers, pictures such as emoji
_SHOWN = 60  # characters of a name that a message repeats
_LISTED = 5  # names that a message lists


@functools.lru_cache(maxsize=1 << 16)
def clean_name(name: str) -> str:
    """A class name as it stands in a caption.

    Everything from the first "(" to the last ")" goes, "_" becomes a blank, and pairs of blanks become one (once).
    Blanks at the ends stay, because the published models were trained and measured with them.
    """
    return re.sub(r"\(.*\)", "", name).replace("_", " ").replace("  ", " ")


def folded_name(name: str) -> str:
    """What equals for two names of one class."""
    return " ".join(clean_name(name).split()).casefold()


def split_class_text(text: str) -> list[str]:
    """Class names of a command-line text such as "person. traffic light".

    Names end at a full stop (not inside a number), a semicolon or a line break; a text with none of these is split at
    its commas.  Raises ValueError when no name is left.
    """
    parts = _CLASS_SEPARATORS.split(text)
    if len(parts) == 1:
        parts = _COMMAS.split(text)
    names = [" ".join(part.split()) for part in parts if has_content(part)]
    if not names:
        raise ValueError(f"the prompt {shown(text)} names no class; write for example 'person. traffic light'")
    return names


def has_content(name: str) -> bool:
    """Whether the name holds a letter, a number or an emoji: more than white space, punctuation and signs."""
    return any(unicodedata.category(character).startswith(_CONTENT) for character in name)


def check_unicode(text: str) -> None:
    """Raises ValueError for a text with halves of characters, which a wrongly encoded command line leaves behind."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        bad = ascii(text[error.start : error.end])
        raise ValueError(f"{shown(text)} is not a valid Unicode text: no character is {bad}") from error


def shown(text: str) -> str:
    """`text` in quotes for a message, shortened when long."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def listed(names: Sequence[str]) -> str:
    """The first names for a message, and how many more there are."""
    first = ", ".join(shown(name) for name in names[:_LISTED])
    return first if len(names) <= _LISTED else f"{first} and {len(names) - _LISTED} more"
