"""From a checkpoint of a training run to a folder that `Detector.from_pretrained` reads."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from maskrcnn_benchmark.config import CfgNode, default_config
from maskrcnn_benchmark.engine.model_files import CONFIG_FILE
from maskrcnn_benchmark.text.tokenizer import find_text_folder
from maskrcnn_benchmark.utils.weight_conversion import COMPUTED
from maskrcnn_benchmark.utils.weight_files import read_checkpoint, save_weights, select_state_dict

WEIGHTS_FILE = "model.safetensors"
DTYPES = {"float16": torch.float16, "float32": torch.float32}
TRAINED, AVERAGED = "model", "model_ema"


class ExportedModel(NamedTuple):
    """What was written: the file of the weights, its bytes, the entry of the checkpoint, and how many tensors."""

    path: Path
    size: int
    key: str
    tensors: int


def export_model(
    checkpoint: Path,
    config_file: Path,
    folder: Path,
    *,
    key: str | None = None,
    dtype: str = "float16",
    with_vocabulary: bool = True,
) -> ExportedModel:
    """Writes config.yaml, the weights and the vocabulary of a model to `folder`.

    Args:
        checkpoint: of a training run.
        config_file: the configuration that the model is built from.
        key: "model" or "model_ema"; None takes the averaged weights where the checkpoint has them.
        dtype: format of the real-valued weights; a value that it cannot hold is an error.
        with_vocabulary: copy the folder of the text encoder, where that is a local one.
    Raises: ValueError for weights that are not finite in `dtype`, or an unknown key.
    """
    stored = read_checkpoint(checkpoint)
    if key is None:
        key = AVERAGED if isinstance(stored, Mapping) and AVERAGED in stored else TRAINED
    weights = {
        name: value
        for name, value in select_state_dict(stored, key, str(checkpoint)).items()
        if not any(re.search(rule.pattern, name) for rule in COMPUTED)
    }
    _check_finite(weights, DTYPES[dtype], checkpoint)
    cfg = default_config()
    cfg.merge_from_file(str(config_file))
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(config_file, folder / CONFIG_FILE)
    if with_vocabulary:
        _copy_text_folders(cfg, folder)
    path = save_weights(weights, folder / WEIGHTS_FILE, dtype=DTYPES[dtype], metadata={"entry": key})
    return ExportedModel(path, path.stat().st_size, key, len(weights))


def _check_finite(weights: Mapping[str, Tensor], dtype: torch.dtype, source: Path) -> None:
    for name, value in weights.items():
        if value.is_floating_point() and not torch.isfinite(value.to(dtype)).all():
            raise ValueError(f"{source}: {name} holds values that are not finite as {dtype}")


def _copy_text_folders(cfg: CfgNode, folder: Path) -> None:
    """Copies the local folders that the configuration names under their last name, where the detector looks first."""
    language = cfg.MODEL.LANGUAGE_BACKBONE
    for name in {language.MODEL_TYPE, language.TOKENIZER_TYPE}:
        source = find_text_folder(name)
        if source is not None:
            shutil.copytree(source, folder / source.name, dirs_exist_ok=True)
