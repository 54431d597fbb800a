"""Which configuration and which weights belong to the name of a model."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / "assets"
CONFIG_FILE = "config.yaml"

EMBEDDED = ("glip_nano",)
"""Models whose folder is part of the package."""

PUBLISHED = {
    "glip_a_tiny_o365": "glip_A_Swin_T_O365.yaml",
    "glip_tiny_model_o365": "glip_Swin_T_O365.yaml",
    "glip_tiny_model_o365_goldg": "glip_Swin_T_O365_GoldG.yaml",
    "glip_tiny_model_o365_goldg_cc_sbu": "glip_Swin_T_O365_GoldG.yaml",
    "glip_large_model": "glip_Swin_L.yaml",
}
"""Models of the GLIP authors: name of the weights -> configuration in assets/configs."""


@dataclass(frozen=True)
class ModelFiles:
    """A model on disk, or on its way there.

    Attributes:
        name: what messages call it.
        config: its YAML file.
        weights: returns the path of the weights, after a download where needed.
    """

    name: str
    config: Path
    weights: Callable[[], Path]


def find_model(name_or_dir: str | Path) -> ModelFiles:
    """The files of an embedded or published model, or of a folder with config.yaml and one file of weights.

    Raises: ValueError for an unknown name, listing the known ones; FileNotFoundError for an incomplete folder.
    """
    name = str(name_or_dir)
    if name in EMBEDDED:
        return _from_folder(name, ASSETS / name)
    published = name.removesuffix(".pth")
    if published in PUBLISHED:
        return ModelFiles(published, ASSETS / "configs" / PUBLISHED[published], lambda: _published_weights(published))
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return _from_folder(name, folder)
    names = [*EMBEDDED, *PUBLISHED]
    known = ", ".join(names)
    if name and folder.is_file():
        raise ValueError(f"model '{name}' is a file; name a folder with {CONFIG_FILE} and weights, or one of {known}")
    close = difflib.get_close_matches(published, names, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise ValueError(f"model '{name}' is neither a folder nor one of {known}{hint}")


def _from_folder(name: str, folder: Path) -> ModelFiles:
    from maskrcnn_benchmark.utils.weight_files import find_weight_file

    config = folder / CONFIG_FILE
    if not config.is_file():
        raise FileNotFoundError(f"model folder '{folder}' holds no {CONFIG_FILE}")
    weights = find_weight_file(folder)
    return ModelFiles(name, config, lambda: weights)


def _published_weights(name: str) -> Path:
    from maskrcnn_benchmark.utils.model_zoo import resolve_weights

    return resolve_weights(name)
