"""JSON read piece by piece: what json.loads reads, however the pieces fall, and its errors."""

import io
import json

import pytest

from maskrcnn_benchmark.data.datasets.json_stream import InvalidJson, NotAnObject, read_members

CONTENT = {
    "info": {"note": 'a "quoted" \\ text, [not, a, list]', "numbers": [1, -2.5e-7, 12345678901234567890, 0]},
    "images": [{"id": 1, "file_name": "größe ✓ \u2028 \U0001f600.jpg"}, {}, [], None, True, 3, -1.5, "text"],
    "empty": [],
    "annotations": [],
    "ü": {},
}


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("options", [{}, {"indent": 1}, {"ensure_ascii": False, "separators": (",", ":")}])
def test_the_same_as_json_reads(chunk, options):
    text = f" \n{json.dumps(CONTENT, **options)}\r\n\t"
    found = {"images": [], "annotations": []}
    callbacks = {name: elements.append for name, elements in found.items()}
    members = read_members(io.BytesIO(text.encode()), callbacks, chunk)
    assert found == {name: CONTENT[name] for name in found}
    assert members == CONTENT | {"images": [], "annotations": []} and list(members) == list(CONTENT)


@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 20])
def test_a_byte_order_mark(chunk):
    assert read_members(io.BytesIO(json.dumps(CONTENT).encode("utf-8-sig")), {}, chunk) == CONTENT


def test_an_empty_object():
    assert read_members(io.BytesIO(b"{ }"), {}) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "Expecting '{', not 'the end' at character 0"),
        (b'{"b": 1', "not 'the end' at character 7"),
        (b'{"a": [1, 2}', "Expecting ',', not '}' at character 11"),
        (b'{"a": [1, ]}', "Expecting value at character 10"),
        (b'{"b": tru}', "Expecting value at character 6"),
        (b'{"b": "text}', "Unterminated string .* at character 6"),
        (b'{"a" 1}', "Expecting ':', not '1' at character 5"),
        (b'{"a": [1]} x', "Extra data 'x' at character 11"),
        (b'{"a": ["\xff"]}', "invalid start byte"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_broken_text(text, message, chunk):
    with pytest.raises(InvalidJson, match=message):
        read_members(io.BytesIO(text), {"a": lambda element: None}, chunk)


def test_an_error_far_from_the_end_does_not_read_on():
    file = io.BytesIO(b'{"a": [{"b": nothing}, ' + b" " * 100_000)
    with pytest.raises(InvalidJson, match="Expecting value at character 13"):
        read_members(file, {"a": lambda element: None}, 1000)
    assert file.tell() <= 2000


@pytest.mark.parametrize("text", [b"[1]", b"3", b'{"a": 3}'])
def test_another_form(text):
    with pytest.raises(NotAnObject):
        read_members(io.BytesIO(text), {"a": lambda element: None})
