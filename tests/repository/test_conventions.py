"""Rules of the code that no linter knows."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "maskrcnn_benchmark").rglob("*.py"))
PACKAGES = {"pillow": "PIL", "pyyaml": "yaml"}  # the packages whose module has another name
OPTIONAL = {"cv2", "triton"}  # the caller's own OpenCV; a part of PyTorch on the platforms that it runs on


def nodes(kind: type[ast.AST], *paths: Path) -> Iterator[tuple[str, ast.AST]]:
    for path in paths or SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kind):
                yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}", node


def imported_modules() -> dict[str, str]:
    """Top-level module -> a place that imports it."""
    found = {}
    for place, node in nodes(ast.Import):
        found |= {alias.name.split(".")[0]: place for alias in node.names}
    for place, node in nodes(ast.ImportFrom):
        if not node.level:
            found[node.module.split(".")[0]] = place
    return found


def test_imported_packages_are_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {requirement.split(">=")[0] for requirement in project["dependencies"]}
    known = {PACKAGES.get(name, name) for name in names} | set(sys.stdlib_module_names) | {"maskrcnn_benchmark"}
    known |= OPTIONAL
    assert {module: place for module, place in imported_modules().items() if module not in known} == {}


def test_modules_do_not_keep_or_probe_the_configuration():
    """`cfg` is read where things are built; a key that may be absent is an error of the configuration tree."""
    kept = [
        place
        for place, node in nodes(ast.Attribute)
        if node.attr == "cfg" and isinstance(node.ctx, ast.Store) and "/modeling/" in place
    ]
    probed = [
        place
        for place, node in nodes(ast.Call)
        if isinstance(node.func, ast.Name)
        and node.func.id in ("hasattr", "getattr")
        and ast.unparse(node.args[0]).split(".")[0] == "cfg"
    ]
    assert kept == [] and probed == []


def test_nothing_is_evaluated_as_code():
    called = [
        place
        for place, node in nodes(ast.Call)
        if isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec", "compile")
    ]
    assert called == []


@pytest.mark.parametrize("folder", ["maskrcnn_benchmark", "tools", "benchmarks"])
def test_every_module_says_what_it_is(folder):
    silent = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / folder).rglob("*.py"))
        if (text := path.read_text(encoding="utf-8")).strip() and not ast.get_docstring(ast.parse(text))
    ]
    assert silent == []
