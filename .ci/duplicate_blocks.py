"""Finds blocks of code that stand in more than one place. python .ci/duplicate_blocks.py [--lines N] PATH...

Two blocks are equal when N consecutive lines of code are: comments, docstrings, blank lines, imports, indentation and
lines without a letter (closing brackets) do not count. Exits with 1 and one line per pair of places when there are any.
"""

import argparse
import ast
import io
import sys
import tokenize
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple


class Line(NamedTuple):
    """A line of code without its indentation and comment, and the number it has in the file, from 1."""

    text: str
    number: int


class Duplicate(NamedTuple):
    """`length` lines of code that begin both at `first` and at `second`, given as "file:line"."""

    first: str
    second: str
    length: int


def code_lines(source: str) -> list[Line]:
    """The lines that count, in order. Raises SyntaxError when `source` is not Python."""
    ignored: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_docstring or isinstance(node, ast.Import | ast.ImportFrom):
            ignored.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return [
        Line(" ".join(text.split()), number)
        for number, text in enumerate(lines, start=1)
        if number not in ignored and any(character.isalpha() for character in text)
    ]


def find_duplicates(sources: dict[str, str], length: int) -> list[Duplicate]:
    """Every maximal run of at least `length` equal lines of code in `sources`, a map from file name to content."""
    files = {name: code_lines(source) for name, source in sources.items()}
    places = defaultdict(list)
    for name, lines in files.items():
        for start in range(len(lines) - length + 1):
            places[tuple(line.text for line in lines[start : start + length])].append((name, start))

    found: dict[tuple[str, int, str, int], int] = {}
    for block in places.values():
        for index, (name, start) in enumerate(block):
            for other, other_start in block[index + 1 :]:
                if name == other and other_start < start + length:
                    continue  # a block that overlaps itself is a regular table
                begun = found.pop((name, start - 1, other, other_start - 1), None)
                found[name, start, other, other_start] = length if begun is None else begun + 1
    return [
        Duplicate(
            f"{name}:{files[name][start - size + length].number}",
            f"{other}:{files[other][other_start - size + length].number}",
            size,
        )
        for (name, start, other, other_start), size in found.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="Python file or folder")
    parser.add_argument("--lines", type=int, default=8, help="shortest block that counts (default: %(default)s)")
    arguments = parser.parse_args()
    paths = [file for path in arguments.paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    duplicates = find_duplicates({str(path): path.read_text(encoding="utf-8") for path in paths}, arguments.lines)
    for duplicate in duplicates:
        sys.stdout.write(f"{duplicate.first} and {duplicate.second}: {duplicate.length} equal lines\n")
    return 1 if duplicates else 0


if __name__ == "__main__":
    sys.exit(main())
