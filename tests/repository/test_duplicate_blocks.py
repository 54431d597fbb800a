"""The duplicate-block check of `make lint`."""

import runpy
from pathlib import Path

import pytest

CHECK = runpy.run_path(str(Path(__file__).parents[2] / ".ci" / "duplicate_blocks.py"))

BLOCK = """
def f(x):
    a = x + 1
    b = a + 2  # why
    c = b + 3
    return c
"""


@pytest.mark.parametrize(("length", "is_found"), [(5, True), (6, False)])
def test_a_repeated_block_is_found_from_the_given_length_on(length, is_found):
    other = BLOCK.replace("  # why", "").replace("    c =", "\n    c =")  # layout and comments do not hide a copy
    found = CHECK["find_duplicates"]({"one.py": BLOCK, "two.py": f"import os\n{other}"}, length)
    assert bool(found) is is_found
    if found:
        assert found == [("one.py:2", "two.py:3", 5)]


def test_a_long_block_is_reported_once_with_its_length():
    found = CHECK["find_duplicates"]({"one.py": BLOCK, "two.py": BLOCK}, 3)
    assert found == [("one.py:2", "two.py:2", 5)]


def test_docstrings_imports_and_closing_brackets_do_not_count():
    source = '"""A docstring\nof three\nlines."""\nimport os\nimport sys\n\nx = [\n    1,\n]\n'
    assert [line.text for line in CHECK["code_lines"](source)] == ["x = ["]
