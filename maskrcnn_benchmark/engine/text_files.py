"""Where a text encoder's vocabulary and sizes come from when its weights are in the detector's checkpoint."""

from pathlib import Path

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.text.tokenizer import find_text_folder
from maskrcnn_benchmark.utils import model_zoo

KEYS = ("MODEL.LANGUAGE_BACKBONE.MODEL_TYPE", "MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE")
NEEDED = (("config.json",), ("vocab.txt", "tokenizer.json"))  # one of each group


def use_local_text_files(cfg: CfgNode, config_folder: Path | None = None) -> None:
    """Replaces the names of the text encoder in ``cfg`` by folders, so that building the model needs no hub.

    Looked for beside the configuration file (in ``config_folder``), as ``find_text_folder`` does, in the cache of the
    Hugging Face libraries; the small files of a published encoder are downloaded otherwise, without its weights. Names
    that none of this knows stay.
    Raises: DownloadError.
    """
    language = cfg.MODEL.LANGUAGE_BACKBONE
    for key in KEYS:
        folder = _folder(language[key.rsplit(".", 1)[1]], config_folder)
        if folder is not None:
            cfg.merge_from_list([key, str(folder.resolve())])


def _folder(name: str, config_folder: Path | None) -> Path | None:
    if not name:
        return None
    if config_folder is not None and (config_folder / name).is_dir():
        return config_folder / name
    folder = find_text_folder(name) or _in_hub_cache(name)
    if folder is None and name in model_zoo.TEXT_ENCODERS:
        folder = model_zoo.resolve_text_files(name)
    return folder


def _in_hub_cache(name: str) -> Path | None:
    """The folder of a hub name in the cache of the Hugging Face libraries, if it holds what is needed."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for repository in (name, model_zoo.TEXT_ENCODERS.get(name, name)):
        try:
            found = try_to_load_from_cache(repository, "config.json")
        except HFValidationError:  # not a name of the hub
            return None
        folder = Path(found).parent if isinstance(found, str) else None
        if folder is not None and all(any((folder / file).is_file() for file in group) for group in NEEDED):
            return folder
    return None
