"""Finds data and weight files by a relative name, in a fixed list of roots."""

import os
from collections.abc import Sequence
from pathlib import Path

from maskrcnn_benchmark.config.loading import REPOSITORY_ROOT

SEARCH_PATH: tuple[str, ...] = ("./DATASET", "./OUTPUT", "./data", "./MODEL")
CATALOG_SCHEME = "catalog://"


def search_roots(search_path: Sequence[str] = SEARCH_PATH) -> list[str]:
    """The roots in the order they are tried: the working directory, those named by `DATASET`, then `search_path`."""
    from_environment = [root for root in os.environ.get("DATASET", "").split(os.pathsep) if root]
    return ["./", *from_environment, *search_path]


def try_to_find(file: str, return_dir: bool = False, search_path: Sequence[str] = SEARCH_PATH) -> str:
    """The path of `file`, which may be a file or a folder, under the first root that has it.

    Args:
        file: a path such as "coco/val2017". Empty values and "catalog://" names are returned as they are.
        return_dir: return the root instead of the joined path.
        search_path: the roots tried after the working directory and those in the environment variable `DATASET`
            (one or more folders, separated like `PATH`). Relative roots are looked up from the working directory, then
            from the folder that holds the package.

    Raises:
        FileNotFoundError: no root has it; the text lists the roots.
    """
    if not file or file.startswith(CATALOG_SCHEME):
        return file
    roots = search_roots(search_path)
    for base in ("", str(REPOSITORY_ROOT)):
        for root in roots:
            path = os.path.join(base, root, file)
            if os.path.exists(path):
                return os.path.join(base, root) if return_dir else path
    if os.path.isabs(file):
        raise FileNotFoundError(f"Cannot find {file}, an absolute path, which is not searched for anywhere else.")
    raise FileNotFoundError(f"Cannot find {file} in {roots}. {_hint(file, roots)}")


def _hint(file: str, roots: Sequence[str]) -> str:
    top, *rest = Path(file).parts
    for root in roots:
        if rest and os.path.exists(os.path.join(root, *rest)):
            return f"{os.path.join(root, *rest)} exists: the root must be the folder above {top!r}, not {root!r}."
    return (
        f"Looked up from the working directory, {os.getcwd()}, then from {REPOSITORY_ROOT}. Set the environment "
        f"variable DATASET to the folder that contains {top!r}, or link it into ./DATASET."
    )
