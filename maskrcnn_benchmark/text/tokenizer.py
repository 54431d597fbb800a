"""The one place where tokenizers are made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CLIP_HUB_NAME = "openai/clip-vit-base-patch32"
CLIP_MASK_TOKEN_ID = 49404
"""Entry of CLIP's vocabulary that becomes the mask token for masked language modelling with a CLIP encoder."""

_ASSETS = Path(__file__).parents[1] / "assets"
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model")


def find_text_folder(name_or_dir: str | os.PathLike[str]) -> Path | None:
    """Local folder that a tokenizer or text encoder name stands for, or None when it is the name of a hub repository.

    Looked for as written (`~` expanded, relative to the working directory), then among the folders that the package
    ships in `maskrcnn_benchmark/assets`.
    """
    given = Path(name_or_dir).expanduser()
    candidates = [given]
    if not given.is_absolute():
        candidates.append(_ASSETS / given)
    return next((folder for folder in candidates if folder.is_dir()), None)


def build_tokenizer(name_or_dir: str | os.PathLike[str], mlm: bool = False) -> PreTrainedTokenizerBase:
    """Fast Hugging Face tokenizer from a folder or a hub name.

    Args:
        name_or_dir: a folder with tokenizer files (`vocab.txt` is enough for BERT), the name of a folder among the
            package's assets, a hub name such as "bert-base-uncased", or "clip".
        mlm: give CLIP's tokenizer a mask token; others have their own.
    Raises:
        FileNotFoundError: the folder does not exist or holds no tokenizer, or the hub cannot be reached.
        ValueError: the tokenizer cannot map characters to tokens.
    """
    name = os.fspath(name_or_dir)
    if not name:
        raise ValueError("the tokenizer name is empty; give a folder or a hub name such as 'bert-base-uncased'")
    if name == "clip":
        return _clip_tokenizer(mlm)
    folder = find_text_folder(name)
    if folder is None and _looks_like_path(name):
        raise FileNotFoundError(f"tokenizer folder '{name}' does not exist")
    if folder is not None and not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        raise FileNotFoundError(f"folder '{folder}' holds no tokenizer: none of {', '.join(_TOKENIZER_FILES)}")
    tokenizer = _load(str(folder) if folder is not None else name)
    if not tokenizer.is_fast:
        raise ValueError(f"tokenizer '{name}' is not a fast one; only those map characters to tokens")
    return tokenizer


def _load(source: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer, BertTokenizer  # three seconds; only those who tokenise pay them

    from maskrcnn_benchmark.utils.download import hub_attempts

    folder = Path(source)
    described = any((folder / file).is_file() for file in ("tokenizer_config.json", "config.json"))
    if (folder / "vocab.txt").is_file() and not described:
        return BertTokenizer.from_pretrained(source)
    failure: OSError | None = None
    for local_only in hub_attempts():
        try:
            return AutoTokenizer.from_pretrained(source, local_files_only=local_only)
        except OSError as error:
            failure = error
    raise FileNotFoundError(
        f"no tokenizer '{source}': it is no folder here and could not be fetched from the Hugging Face hub. "
        "Check the name and the connection, or name a folder that holds its vocab.txt or tokenizer.json"
    ) from failure


def _clip_tokenizer(mlm: bool) -> PreTrainedTokenizerBase:
    tokenizer = _load(CLIP_HUB_NAME)
    if mlm:
        tokenizer.mask_token = tokenizer.convert_ids_to_tokens(CLIP_MASK_TOKEN_ID)
    return tokenizer


def _looks_like_path(name: str) -> bool:
    """A hub name is `name` or `owner/name`; anything that starts at a folder or is nested deeper can only be a path."""
    return name.startswith((".", "~", "/")) or name.count("/") > 1
