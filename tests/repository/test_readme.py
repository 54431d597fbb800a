"""What README.md says can be done: its commands parse, its code imports, its files and variables exist."""

import argparse
import ast
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from maskrcnn_benchmark.cli.console import Parser
from maskrcnn_benchmark.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PROSE = re.sub(r"^```.*?^```", "", TEXT, flags=re.MULTILINE | re.DOTALL)
COMMAND_LINES = re.findall(r"^    (\S.*)$", TEXT, re.MULTILINE)
IN_PROSE = [" ".join(text.split()) for text in re.findall(r"`(glip (?:data|prompt|predict --image) [^`]+)`", PROSE)]
CODE = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "line", IN_PROSE + [line for line in COMMAND_LINES if line.startswith("glip ") and "--help" not in line]
)
def test_glip_commands_parse(line):
    _, name, *arguments = shlex.split(line, comments=True)
    parser = Parser(prog="glip")
    import_module(COMMANDS[name].module).add_parser(parser.add_subparsers(dest="command"))
    assert isinstance(parser.parse_args([name, *arguments]), argparse.Namespace)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", "\n".join(COMMAND_LINES) + " ".join(re.findall(r"`([^`]+)`", PROSE))))
    assert {"demo", "test"} <= named <= targets
    described = set(re.findall(r"^#   make ([a-z-]+)", makefile, re.MULTILINE))
    assert described == targets


def test_files_and_folders_exist():
    quoted = re.findall(r"`([\w.*/-]+)`", TEXT) + [word for line in COMMAND_LINES for word in line.split()]
    roots = (
        "configs",
        "tools",
        "docker",
        "tests",
        "benchmarks",
        "maskrcnn_benchmark",
        "modeling",
        "data",
        "structures",
    )
    paths = [path for path in quoted if "/" in path and path.split("/")[0] in roots]
    missing = [path for path in paths if not ((ROOT / path).exists() or (ROOT / "maskrcnn_benchmark" / path).exists())]
    assert len(paths) > 10 and missing == []
    configurations = re.findall(r"`(\w+\.yaml)`", TEXT)
    assert [name for name in configurations if not (ROOT / "configs" / "pretrain" / name).is_file()] == []


def test_environment_variables_are_read():
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "maskrcnn_benchmark").rglob("*.py"))
    named = set(re.findall(r"\b((?:GLIP|HF)_[A-Z]+)\b", TEXT)) | {"DATASET"}
    assert {"GLIP_CACHE", "GLIP_OFFLINE"} <= named
    assert [name for name in sorted(named) if f'"{name}"' not in source] == []


@pytest.mark.parametrize("code", CODE)
def test_python_examples_import_what_exists(code):
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    assert imports
    for node in imports:
        module = import_module(node.module)
        assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
