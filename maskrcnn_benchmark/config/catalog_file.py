"""Reads the file that the configuration key PATHS_CATALOG names."""

import logging
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from maskrcnn_benchmark.config.loading import REPOSITORY_ROOT, ConfigFileError

logger = logging.getLogger(__name__)

BUILT_IN = Path(__file__).resolve().with_name("paths_catalog.py")


def load_catalog(path: str) -> ModuleType:
    """Executes a catalogue file anew and returns it as a module with `DatasetCatalog` and `ModelCatalog`.

    What is registered in the result is not seen by later calls. The built-in catalogue stands in, with a warning, for
    one of another installation, whose path a dumped configuration carries.

    Raises: ConfigFileError if the file does not exist or cannot be executed.
    """
    given = Path(path).expanduser()
    candidates = [given.absolute(), REPOSITORY_ROOT / given]
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        if given.parts[-2:] != BUILT_IN.parts[-2:]:
            raise ConfigFileError(f"PATHS_CATALOG {path!r} does not exist")
        logger.warning("PATHS_CATALOG %s does not exist here; using the catalogue of this installation", path)
        file = BUILT_IN
    spec = spec_from_file_location(f"paths_catalog_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigFileError(f"PATHS_CATALOG {path!r} is not a Python file")
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever is wrong with somebody's file
        raise ConfigFileError(f"PATHS_CATALOG {path!r} cannot be executed: {type(error).__name__}: {error}") from error
    return module


def load_dataset_catalog(path: str) -> Any:
    """The `DatasetCatalog` of a catalogue file, see load_catalog. Raises: ConfigFileError, also where it has none."""
    module = load_catalog(path)
    if not hasattr(module, "DatasetCatalog"):
        raise ConfigFileError(f"PATHS_CATALOG {path!r} has no class DatasetCatalog")
    return module.DatasetCatalog
