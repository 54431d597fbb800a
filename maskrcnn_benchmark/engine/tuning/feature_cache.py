"""Features of pictures that a frozen image encoder has made once, kept on disk for the steps to come.

Without augmentation a picture enters the network the same every time, and a frozen encoder makes the same of it.
"""

import hashlib
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.data.picture_files import picture_file
from maskrcnn_benchmark.data.wrapped_loader import WrappedLoader
from maskrcnn_benchmark.structures.image_list import ImageList
from maskrcnn_benchmark.utils.complete_files import atomic_path

MEMORY_BYTES = {"cuda": 4 << 30, "cpu": 1 << 30}
"""Features that are kept on the device as well; those of an 800x1344 picture take 11 MB in half precision."""

logger = logging.getLogger(__name__)


def why_not_cached(cfg: CfgNode, model: nn.Module) -> str | None:
    """Why the features of a picture differ from step to step, or cannot be kept; None if they can."""
    if not (model.freezing.body and model.freezing.fpn):
        return "an image encoder that is trained (MODEL.BACKBONE.FREEZE and MODEL.FPN.FREEZE must be True)"
    if model.backbone.reads_text:
        return "an image encoder that reads the text (SWINT.VERSION 'vl' or 'v2_vl')"
    if cfg.AUGMENT.FLIP_PROB_TRAIN > 0:
        return f"pictures that are mirrored (AUGMENT.FLIP_PROB_TRAIN {cfg.AUGMENT.FLIP_PROB_TRAIN:g}, must be 0)"
    sizes = cfg.AUGMENT.MULT_MIN_SIZE_TRAIN or cfg.INPUT.MIN_SIZE_TRAIN
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    if len(set(sizes)) > 1:
        return f"pictures of several sizes (AUGMENT.MULT_MIN_SIZE_TRAIN or INPUT.MIN_SIZE_TRAIN {sizes}, must be one)"
    if cfg.AUGMENT.EXTENDED:
        return "crops, flips and colours (AUGMENT.EXTENDED True)"
    return "SOLVER.FSDP True" if cfg.SOLVER.FSDP else None


class FeatureCache:
    """Gives the features of a batch of named pictures (`ImageList.names`), each encoded once for each padded size.

    A picture is encoded alone, padded as its batch is: the features it would have in the batch, up to rounding.

    Args:
        folder: where they are kept, below a folder for the weights of the encoder and `settings`.
        encoder: the frozen module that makes them; settings: what else they depend on, such as normalisation.
        memory_bytes: of features that are kept on the device, too.
    """

    def __init__(self, folder: str | Path, encoder: nn.Module, settings: str, memory_bytes: int | None = None):
        self.root, self.encoder, self.settings = Path(folder), encoder, settings
        self.memory_bytes = memory_bytes
        self.encoded = 0  # pictures that went through the encoder
        self._folder: Path | None = None
        self._kept: OrderedDict[str, tuple[Tensor, ...]] = OrderedDict()
        self._bytes = 0

    def __deepcopy__(self, memo: dict) -> "FeatureCache":
        """A copy of the model keeps the same features."""
        return self

    def __call__(self, images: ImageList, encode: Callable[[Tensor], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Levels (B, C, H, W), finest first; `encode` makes those of one picture (1, 3, H, W)."""
        assert images.names is not None
        rows = [self._levels(images, row, encode) for row in range(len(images))]
        return tuple(torch.cat(levels) for levels in zip(*rows, strict=True))

    def _levels(self, images: ImageList, row: int, encode: Callable) -> tuple[Tensor, ...]:
        key = self._key(images, row)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        device = images.tensors.device
        path = self._weights_folder() / key[:2] / f"{key}.safetensors"
        levels = _read(path, device)
        if levels is None:
            levels = tuple(level.contiguous() for level in encode(images.tensors[row : row + 1]))
            self.encoded += 1
            _write(levels, path)
        self._keep(key, levels, device)
        return levels

    def _key(self, images: ImageList, row: int) -> str:
        device_type = images.tensors.device.type
        is_autocast = torch.is_autocast_enabled(device_type)
        dtype = torch.get_autocast_dtype(device_type) if is_autocast else images.tensors.dtype
        place = (images.names[row], tuple(images.image_sizes[row]), tuple(images.tensors.shape[-2:]), str(dtype))
        return hashlib.sha256(repr(place).encode()).hexdigest()

    def _weights_folder(self) -> Path:
        """Named by everything but the picture that the features depend on."""
        if self._folder is None:
            digest = hashlib.sha256(self.settings.encode())
            for name, value in sorted(self.encoder.state_dict().items()):
                digest.update(name.encode())
                digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
            self._folder = self.root / digest.hexdigest()[:16]
            logger.info("Features of pictures are kept in %s", self._folder)
        return self._folder

    def _keep(self, key: str, levels: tuple[Tensor, ...], device: torch.device) -> None:
        limit = MEMORY_BYTES.get(device.type, 0) if self.memory_bytes is None else self.memory_bytes
        self._kept[key] = levels
        self._bytes += _size(levels)
        while self._bytes > limit and self._kept:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= _size(dropped)


def _read(path: Path, device: torch.device) -> tuple[Tensor, ...] | None:
    """The levels in a file; None where there is none, and, with a warning, for one that is damaged."""
    if not path.is_file():
        return None
    try:
        stored = load_file(path, device=str(device))
        return tuple(stored[str(number)] for number in range(len(stored)))
    except (SafetensorError, KeyError) as error:
        logger.warning("The features in '%s' cannot be read (%s): the picture is encoded again", path, error)
        return None


def _write(levels: Sequence[Tensor], path: Path) -> None:
    """Raises: OSError where the file cannot be written."""
    with atomic_path(path) as part:
        try:
            save_file({str(number): level for number, level in enumerate(levels)}, part)
        except SafetensorError as error:
            raise OSError(f"the features of a picture cannot be written to '{path}': {error}") from error


def _size(levels: Sequence[Tensor]) -> int:
    return sum(level.numel() * level.element_size() for level in levels)


class NamedPictures(WrappedLoader):
    """A training loader whose batches name their pictures by file, date and length.

    Raises: ValueError for pictures that have no files of their own.
    """

    def __init__(self, loader: Any):
        super().__init__(loader)
        self._names: dict[int, str] = {}

    def __iter__(self) -> Iterator[tuple]:
        for images, targets, *rest in self.loader:
            images.names = [self._name(target.get_field("dataset_index")) for target in targets]
            yield images, targets, *rest

    def _name(self, index: int) -> str:
        if index not in self._names:
            path = picture_file(self.loader.dataset, index)
            if path is None:
                raise ValueError("SOLVER.CACHE_FEATURES: the training data have no picture files of their own")
            status = os.stat(path)
            self._names[index] = f"{os.path.abspath(path)} {status.st_mtime_ns} {status.st_size}"
        return self._names[index]


def cache_features(cfg: CfgNode, model: nn.Module, loader: Any) -> Any:
    """Lets the model keep features of training pictures where SOLVER.CACHE_FEATURES asks for it; returns the loader.

    Raises: ValueError where they differ from step to step.
    """
    if not cfg.SOLVER.CACHE_FEATURES:
        return loader
    reason = why_not_cached(cfg, model)
    if reason is not None:
        raise ValueError(f"SOLVER.CACHE_FEATURES: the features of pictures cannot be kept with {reason}")
    settings = f"{cfg.INPUT.dump()} {cfg.DATALOADER.SIZE_DIVISIBILITY}"
    model.picture_memory = FeatureCache(cfg.SOLVER.CACHE_FEATURES, model.backbone, settings)
    return NamedPictures(loader)
