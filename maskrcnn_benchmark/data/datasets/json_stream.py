"""Reading a JSON file whose lists are too long to hold as Python objects."""

import codecs
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

CHUNK = 1 << 22  # bytes read at a time
_LONGEST_LITERAL = 32  # characters; an error further from the end of the window is not due to the end
_BLANKS = re.compile(r"[ \t\n\r]*")
_BETWEEN = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
_CUT_EXPONENT = 3  # characters: "1" is read where the window ends in "1e-"


class InvalidJson(ValueError):
    """A text that is not JSON."""


class JsonReader:
    """Walks through the text of a file with a window that holds little more than the value it is at.

    Args:
        file: the text, in UTF-8.
        chunk: bytes read at a time.
    """

    def __init__(self, file: BinaryIO, chunk: int = CHUNK):
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()  # with or without a byte order mark
        self._chunk = chunk
        self._text = ""
        self._position = 0
        self._before = 0  # characters of the file in front of the window
        self._decode = json.JSONDecoder().raw_decode

    def peek(self) -> str:
        """The next character that is not blank; empty at the end of the file."""
        while True:
            self._position = _BLANKS.match(self._text, self._position).end()  # type: ignore[union-attr]
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._fill():
                return ""

    def take(self, expected: str) -> None:
        """Goes past one character. Raises: InvalidJson if another one stands there."""
        found = self.peek()
        if found != expected:
            raise self._error(f"Expecting {expected!r}, not {found or 'the end'!r}")
        self._position += 1

    def value(self) -> Any:
        """Goes past a whole value and returns it. Raises: InvalidJson if it is not JSON."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._text, self._position)
            except json.JSONDecodeError as error:
                place = self._before + error.pos
                is_cut = error.pos > len(self._text) - _LONGEST_LITERAL or error.msg.startswith("Unterminated")
                if not is_cut or not self._fill():
                    raise InvalidJson(f"{error.msg} at character {place}") from error
                continue
            if end > len(self._text) - _CUT_EXPONENT and self._fill():  # a number may go on
                continue
            self._position = end
            return value

    def elements(self) -> Iterator[Any]:
        """Goes past a list and yields its elements."""
        self.take("[")
        if self.peek() == "]":
            self._position += 1
            return
        while True:
            text, position = self._text, self._position
            try:  # the usual case, without a look at the end of the window: a whole element and what follows it
                element, end = self._decode(text, position)
                between = _BETWEEN.match(text, end)
            except json.JSONDecodeError:
                between = None
            if between is not None:
                self._position = between.end()
                yield element
                continue
            yield self.value()
            if self.peek() == ",":
                self.take(",")
                self.peek()
            elif self.peek() == "]":
                self._position += 1
                return
            else:
                raise self._error(f"Expecting ',', not {self.peek() or 'the end'!r}")

    def end(self) -> None:
        """Raises: InvalidJson if anything but blanks follows."""
        if found := self.peek():
            raise self._error(f"Extra data {found!r}")

    def _fill(self) -> bool:
        """Moves the window to the position and adds text, more where it is long; False, and no change, at the end."""
        rest = self._text[self._position :]
        data = self._file.read(max(self._chunk, len(rest)))
        try:
            more = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise InvalidJson(f"{error.reason} after character {self._before + len(self._text)}") from error
        if not data:
            return False
        self._before += self._position
        self._text, self._position = rest + more, 0
        return True

    def _error(self, message: str) -> InvalidJson:
        return InvalidJson(f"{message} at character {self._before + self._position}")


class NotAnObject(ValueError):
    """A JSON text that has another form than the caller expects."""


def read_members(file: BinaryIO, on_element: Mapping[str, Callable[[Any], None]], chunk: int = CHUNK) -> dict[str, Any]:
    """The members of a JSON object; the elements of lists named in `on_element` go there, and the lists are left empty.

    Raises:
        InvalidJson: the text is not JSON.
        NotAnObject: it is no object, or a named member no list.
    """
    members: dict[str, Any] = {}
    reader = JsonReader(file, chunk)
    if reader.peek() not in ("{", ""):
        raise NotAnObject("it is no object with named members")
    reader.take("{")
    while reader.peek() != "}":
        if members:
            reader.take(",")
        name = reader.value()
        reader.take(":")
        if name not in on_element:
            members[name] = reader.value()
            continue
        if reader.peek() != "[":
            raise NotAnObject(f"{name!r} is no list")
        members[name] = []
        for element in reader.elements():
            on_element[name](element)
    reader.take("}")
    reader.end()
    return members
