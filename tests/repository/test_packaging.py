"""Installing the project: the lists of packages agree, and each documented way to install gives a working `glip`."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def lines_of(name: str) -> list[str]:
    return [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]


def package_name(requirement: str) -> str:
    return re.split(r"[<>=!~\[; ]", requirement)[0].lower().replace("_", "-")


def test_requirements_are_the_dependencies():
    assert lines_of("requirements.txt") == PROJECT["dependencies"]


def test_constraints_pin_every_dependency_exactly_once():
    pins = lines_of("constraints.txt")
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", pin) for pin in pins)
    names = [package_name(pin) for pin in pins]
    assert len(names) == len(set(names))
    wanted = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
    assert {package_name(requirement) for requirement in wanted} <= set(names)


def test_packages_that_the_original_asks_for_are_installed_or_named_as_not_needed():
    original = {
        "torch", "torchvision", "nltk", "inflect", "einops", "shapely", "timm", "yacs", "tensorboardx", "ftfy",
        "prettytable", "transformers",
    }  # fmt: skip
    assert original <= {package_name(requirement) for requirement in PROJECT["dependencies"]}
    assert "pymongo" in (ROOT / "README.md").read_text()


def test_dockerfile_has_the_cuda_that_torch_is_built_for():
    image = re.search(r"^ARG CUDA_VERSION=(\d+)\.", (ROOT / "docker" / "Dockerfile").read_text(), re.MULTILINE)
    toolkit = re.search(r"^cuda-toolkit==(\d+)\.", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert image and toolkit and image[1] == toolkit[1]


def test_dockerfile_copies_files_that_exist():
    copied = re.findall(r"^COPY (.+) \./$", (ROOT / "docker" / "Dockerfile").read_text(), re.MULTILINE)
    names = " ".join(copied).split()
    assert "constraints.txt" in names and all((ROOT / name).exists() for name in names)


def test_data_and_what_is_built_stay_out_of_the_container():
    """A library that was built on the host would be used where the build in the container fails."""
    ignored, left_out = (set(lines_of(name)) for name in (".gitignore", ".dockerignore"))
    folders = {pattern.strip("/") for pattern in ignored if pattern.startswith("/")}
    assert {"DATASET", "MODEL", "OUTPUT"} <= folders
    assert folders | {".git", ".venv", "build", "**/*.so"} <= left_out


def test_dockerfile_brings_the_headers_of_python():
    """They are compiled with: csrc/library.cpp at the build, the launchers of Triton's kernels at run time."""
    assert "#include <Python.h>" in (ROOT / "csrc" / "library.cpp").read_text()
    assert re.search(r"apt-get install .*\bpython3-dev\b", (ROOT / "docker" / "Dockerfile").read_text())


def test_ci_runs_lint_and_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\nset -euo pipefail\n")
    assert "make lint test" in script.read_text()


@pytest.fixture
def build_backend(monkeypatch):
    """The build backend, as in an environment for the build that has no PyTorch of its own."""
    spec = importlib.util.spec_from_file_location("build_backend", ROOT / "build_backend.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return module


@pytest.mark.parametrize(("version", "is_used"), [("2.5.1", False), ("2.11.0+cpu", True), ("3.0.0", True)])
def test_the_build_takes_the_pytorch_of_the_environment_if_it_is_new_enough(
    build_backend, monkeypatch, tmp_path, version, is_used
):
    (tmp_path / "torch").mkdir()
    metadata = tmp_path / f"torch-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    monkeypatch.setattr(build_backend, "_site", lambda kind: str(tmp_path))
    monkeypatch.setattr(build_backend, "has_compiler", lambda: True)
    monkeypatch.delenv("GLIP_BUILD_OPS", raising=False)
    assert build_backend._torch_requirement() == ([] if is_used else ["torch==2.11.*"])
    assert (str(tmp_path) in sys.path) is is_used


def test_an_empty_variable_names_no_compiler(build_backend, monkeypatch):
    for value, name in (("", "c++"), ("ccache g++", "ccache")):
        monkeypatch.setenv("CXX", value)
        assert build_backend.compiler() == name


@pytest.mark.parametrize(
    ("variables", "message", "is_error"),
    [
        ({"CXX": "false"}, "the operator library could not be built, going on without", False),
        ({"CXX": "false", "GLIP_BUILD_OPS": "1"}, "CalledProcessError", True),
        ({"CXX": "/nowhere"}, "the operators are not built, they will run on plain PyTorch", False),
        ({"CXX": "/nowhere", "GLIP_BUILD_OPS": "1"}, "GLIP_BUILD_OPS=1, but there is no C++ compiler", True),
        ({"CXX": "/nowhere", "WITH_CUDA": "1"}, "WITH_CUDA=1, but there is no C++ compiler", True),
        ({"CXX": "/nowhere", "GLIP_BUILD_OPS": "0"}, "", False),
    ],
)
def test_what_cannot_be_built_is_an_error_where_it_was_asked_for(tmp_path, variables, message, is_error):
    if variables["CXX"] == "false" and shutil.which("false") is None:
        pytest.skip("needs a program that fails")
    for name in ("setup.py", "build_backend.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    (tmp_path / "maskrcnn_benchmark").mkdir()
    (tmp_path / "maskrcnn_benchmark" / "__init__.py").touch()
    unset = {"CC": variables["CXX"], "WITH_CUDA": "0", "GLIP_BUILD_OPS": ""}
    run = [sys.executable, "setup.py", "build_ext", "--inplace"]
    result = subprocess.run(run, cwd=tmp_path, env=os.environ | unset | variables, capture_output=True, text=True)
    assert (result.returncode != 0) is is_error, result.stdout + result.stderr
    assert message in result.stdout + result.stderr


def test_missing_headers_of_python_are_named(tmp_path):
    """Before anything is compiled: what the compiler says about it is long, and pip hides it."""
    hide = "import sysconfig; found = sysconfig.get_path; "
    hide += "sysconfig.get_path = lambda name, *more: '/nowhere' if name == 'include' else found(name, *more)"
    run = f"import sys; sys.argv = ['setup.py', 'build_ext', '--inplace']; {hide}; "
    run += "__file__ = 'setup.py'; exec(open('setup.py').read())"
    for name in ("setup.py", "build_backend.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    variables = {"CXX": sys.executable, "GLIP_BUILD_OPS": "1", "WITH_CUDA": ""}
    result = subprocess.run(
        [sys.executable, "-c", run], cwd=tmp_path, env=os.environ | variables, capture_output=True, text=True
    )
    assert result.returncode != 0
    assert "GLIP_BUILD_OPS=1, but the headers of this Python are missing" in result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("has_compiler", [True, False])
@pytest.mark.parametrize(
    "command",
    ["setup.py build develop", "-m pip install .", "-m pip install -e ."],
)
def test_install(tmp_path, command, has_compiler):
    """In an environment of its own, without network; the packages it depends on are those of this one."""
    if has_compiler and shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.py", "build_backend.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("maskrcnn_benchmark", "csrc"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("_C*.so", "__pycache__"))
    venv.create(tmp_path / "venv", with_pip=True)
    installed = tmp_path / "installed"  # what this environment has, less this project
    installed.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "maskrcnn" not in entry.name:
            (installed / entry.name).symlink_to(entry)
    offline = {"PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1"}  # 0: pip stores the option negated
    tools = {"WITH_CUDA": "0"} if has_compiler else {"CC": "/nowhere", "CXX": "/nowhere"}
    environment = os.environ | offline | tools | {"PYTHONPATH": str(installed)}
    binaries = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    run = [binaries / "python", *command.split()]
    result = subprocess.run(run, cwd=source, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr

    outside = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    helped = subprocess.run([binaries / "glip", "--help"], **outside)
    assert helped.returncode == 0 and "predict" in helped.stdout, helped.stderr
    code = "import maskrcnn_benchmark, pathlib; print(pathlib.Path(maskrcnn_benchmark.__file__).parent)"
    package = subprocess.run([binaries / "python", "-c", code], **outside).stdout.strip()
    in_source = package == str(source / "maskrcnn_benchmark")
    assert in_source is (command != "-m pip install .")
    described = subprocess.run([binaries / "glip", "env"], **outside).stdout
    assert ("roi_align:" in described) and ("cpu: csrc" in described) is has_compiler
    assert "the compiled library was not built" in described or has_compiler
    for asset in (ROOT / "maskrcnn_benchmark" / "assets").rglob("*"):
        if asset.is_file() and "__pycache__" not in asset.parts:
            assert (Path(package) / asset.relative_to(ROOT / "maskrcnn_benchmark")).is_file()
