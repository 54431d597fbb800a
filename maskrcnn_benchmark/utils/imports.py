"""Importing a Python file by its path."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType


def import_file(module_name: str, file_path: str | os.PathLike[str], make_importable: bool = False) -> ModuleType:
    """Run the Python file ``file_path`` as module ``module_name`` and return it. Only for files whose code you trust.

    Args:
        make_importable: also let later ``import module_name`` statements find it.
    Raises: FileNotFoundError; ImportError if it is not a Python file.
    """
    if not Path(file_path).is_file():
        raise FileNotFoundError(f"Python file {file_path} does not exist")
    spec = importlib.util.spec_from_file_location(module_name, file_path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file_path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if make_importable:
        sys.modules[module_name] = module
    return module
