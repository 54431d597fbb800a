"""The table of rows: complete, and every proof exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from seeds.rows import ROWS, Row

ROOT = Path(__file__).parents[2]

# Kind B on model, text, anchors or post-processing, and the rows on set-up and documents.
ANSWERED_NOW = {
    *(10, 11, 18, 19, 20, 21, 22, 23, 24, 25, 26, 33, 34, 38, 39, 40, 41, 42, 43, 44, 45, 67, 68, 69, 72, 75, 76, 78),
    *(82, 83, 84, 87, 88, 89, 90, 91),
    *(2, 3, 4, 12, 17, 27, 28, 46, 47, 63, 64),
    *(13, 14, 15, 36, *range(48, 55), 73, 74, 77, 85),  # training
    *(5, 6, 7, 8, 31, 32, 35, 58, 65),  # commands of evaluation
    *(9, 30, 37, 55, 56, 57, 59, 60, 61, 62, 66, 86),  # published figures and documents
}


@cache
def test_functions(path: Path) -> frozenset[str]:
    """Names of the tests of a file, "Class::test" for methods."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
    return frozenset(name for name in names if name.split("::")[-1].startswith("test"))


test_functions.__test__ = False


def sections(path: Path) -> set[str]:
    """Headings of a Markdown file."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE))


def exists(proof: str) -> bool:
    if "::" in proof:
        name, function = proof.split("::", 1)
        return (ROOT / name).is_file() and function in test_functions(ROOT / name)
    name, section = proof.split("#", 1)
    return (ROOT / name).is_file() and section in sections(ROOT / name)


def test_all_93_rows_are_listed_once():
    assert [row.number for row in ROWS] == list(range(1, 94))


def test_rows_of_this_part_have_a_proof_and_the_others_say_why_not():
    assert [row.number for row in ROWS if row.number in ANSWERED_NOW and not row.proofs] == []
    assert [row.number for row in ROWS if not (row.proofs or row.later or row.note)] == []


@pytest.mark.parametrize("row", [row for row in ROWS if row.proofs], ids=lambda row: f"row{row.number}")
def test_proofs_exist(row: Row):
    assert [proof for proof in row.proofs if not exists(proof)] == []


@pytest.mark.parametrize(
    "proof",
    [
        "tests/seeds/test_rows.py::test_that_nobody_wrote",
        "tests/seeds/no_such_file.py::test_proofs_exist",
        "README.md#No such section",
        "tests/seeds/test_rows.py::exists",
    ],
)
def test_a_proof_that_does_not_exist_is_noticed(proof):
    assert not exists(proof)
