"""The build backend: setuptools, which also asks for PyTorch where the operators can be built and it is not there yet.

An environment that has PyTorch builds against that one, also under pip's build isolation. An empty one gets the oldest
PyTorch that the operator library supports for the time of the build; what is built runs on every newer one.
"""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  the hooks that stay as they are

OLDEST_TORCH = (2, 11)
TORCH_REQUIREMENT = "torch=={}.{}.*".format(*OLDEST_TORCH)


def compiler() -> str:
    """The C++ compiler of the build, found or not."""
    return (os.environ.get("CXX", "").split() or ["c++"])[0]


def has_compiler() -> bool:
    return shutil.which(compiler()) is not None


def find_torch() -> bool:
    """Whether a PyTorch that is new enough can be imported; looks into the environment itself, too, where build
    isolation hides it. An older one is going to be replaced: the package requires a newer one.
    """
    if importlib.util.find_spec("torch") is not None:
        return _is_new_enough(sys.path)
    folder = next((f for f in (_site("platlib"), _site("purelib")) if (Path(f) / "torch").is_dir()), None)
    if folder is None or not _is_new_enough([folder]):
        return False
    sys.path.append(folder)
    return True


def _is_new_enough(folders: list[str]) -> bool:
    """Whether the PyTorch in the folders is, which may be the source of one, without a version."""
    found = next(iter(importlib.metadata.distributions(name="torch", path=folders)), None)
    numbers = re.match(r"(\d+)\.(\d+)", "" if found is None else found.version)
    return numbers is None or tuple(map(int, numbers.groups())) >= OLDEST_TORCH


def get_requires_for_build_wheel(config_settings=None):
    return build_meta.get_requires_for_build_wheel(config_settings) + _torch_requirement()


def get_requires_for_build_editable(config_settings=None):
    return build_meta.get_requires_for_build_editable(config_settings) + _torch_requirement()


def _torch_requirement() -> list[str]:
    is_wanted = os.environ.get("GLIP_BUILD_OPS") != "0" and has_compiler()
    return [TORCH_REQUIREMENT] if is_wanted and not find_torch() else []


def _site(kind: str) -> str:
    return sysconfig.get_path(kind)
