"""Names of files that tell them apart."""

import os
from collections.abc import Sequence
from pathlib import Path


def distinct_names(files: Sequence[str | os.PathLike[str]], separator: str) -> list[str]:
    """Names of different files without ending, with as many folders before them as tell apart those called alike.

    Files that differ in nothing but their ending keep it. `separator` stands between folders and name.
    """
    paths = [Path(os.path.abspath(file)) for file in files]

    def name(path: Path, folders: int) -> str:
        return separator.join((*path.parts[-1 - folders : -1], path.stem))

    names = []
    for path in paths:
        depths = range(len(path.parts) - 1)
        unique = (depth for depth in depths if sum(name(other, depth) == name(path, depth) for other in paths) == 1)
        depth = next(unique, None)
        names.append(path.name if depth is None else name(path, depth))
    return names
