"""The table of rows: complete, and every proof exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from seeds.rows import ROWS, Row

ROOT = Path(__file__).parents[2]

WITHOUT_PROOF = [16, 29, 70, 71, 92, 93]


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


def test_rows_have_a_proof_or_say_why_not():
    unproved = [row for row in ROWS if not row.proofs]
    assert [row.number for row in unproved] == WITHOUT_PROOF and all(row.note for row in unproved)


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
