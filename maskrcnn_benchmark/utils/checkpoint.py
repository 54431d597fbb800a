"""Checkpoints of a training run: numbered files, and a tag file that names the newest one."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer
from yacs.config import CfgNode

from maskrcnn_benchmark.config.catalog_file import load_catalog
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.complete_files import atomic_path, remove_leftovers
from maskrcnn_benchmark.utils.model_zoo import CATALOG_SCHEME, resolve_weights
from maskrcnn_benchmark.utils.sharded_state import shard_like_optimizer, whole_state
from maskrcnn_benchmark.utils.weight_conversion import load_stored_weights, unwrap_model
from maskrcnn_benchmark.utils.weight_files import (
    CheckpointError,
    read_checkpoint,
    select_state_dict,
    write_pickled,
)

TAG_FILE = "last_checkpoint"
SCHEDULE_SETTINGS = (
    *("milestones", "max_iters", "gamma", "factor", "patience", "eta_min", "min_lrs", "base_lrs"),
    *("warmup_factor", "warmup_iters", "warmup_method"),
)


class Checkpointer:
    """Saves and restores a model with its optimizer and scheduler.

    A file holds ``model`` (names without ``module.``), ``optimizer``, ``scheduler`` (a list if there are several) and
    whatever the caller adds, such as ``iteration`` and ``model_ema``. Files appear under their name only when complete.

    Args:
        optimizer, scheduler: objects with ``state_dict`` and ``load_state_dict``; scheduler may be a list of them.
        save_dir: folder of the run; without one nothing is saved and nothing is resumed.
        save_to_disk: whether this process writes; by default rank 0 does.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        scheduler: Any = None,
        save_dir: str | os.PathLike[str] = "",
        save_to_disk: bool | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.save_dir = str(save_dir)
        self.save_to_disk = comm.is_main_process() if save_to_disk is None else save_to_disk
        self.logger = logger or logging.getLogger(__name__)

    def save(self, name: str, *, is_resumed_from: bool = True, **extra: Any) -> None:
        """Write ``save_dir/name.pth`` with ``extra`` entries; it becomes the last checkpoint unless told otherwise."""
        if not self.save_dir:
            return
        data: dict[str, Any] = {"model": unwrap_model(self.model).state_dict()}
        if self.optimizer is not None:
            data["optimizer"] = self.optimizer.state_dict()
        if isinstance(self.scheduler, Sequence):
            data["scheduler"] = [scheduler.state_dict() for scheduler in self.scheduler]
        elif self.scheduler is not None:
            data["scheduler"] = self.scheduler.state_dict()
        data.update(extra)
        data = whole_state(data, keep=self.save_to_disk)
        if not self.save_to_disk:
            return
        path = Path(self.save_dir, f"{name}.pth")
        for leftover in remove_leftovers(self.save_dir):
            self.logger.info("Removed %s, which a killed process left unfinished", leftover)
        self.logger.info("Saving checkpoint to %s", path)
        with atomic_path(path, is_durable=True) as temporary:
            write_pickled(data, temporary)
        if is_resumed_from:
            self.tag_last_checkpoint(path)

    def load(
        self,
        f: str | os.PathLike[str] | None = None,
        force: bool = False,
        keyword: str = "model",
        skip_optimizer: bool = False,
        *,
        strict: bool = True,
        trust: bool = False,
    ) -> dict[str, Any]:
        """Resume from the last checkpoint of ``save_dir`` if there is one, otherwise load the weights of ``f``.

        Args:
            f: a weight file or a folder with one; used when there is nothing to resume, or with ``force``.
            force: load ``f`` although ``save_dir`` has a last checkpoint.
            keyword: entry to take the weights from, ``model`` or ``model_ema``.
            skip_optimizer: when resuming, leave optimizer and scheduler alone, and return ``{}``.
            strict, trust: see `weight_conversion.load_weights`.
        Returns: when resuming, the entries of the file other than model, optimizer and scheduler; otherwise ``{}``.
        Raises: FileNotFoundError; CheckpointError for a file that cannot be read or does not fit the model.
        """
        resume = self.has_checkpoint() and not force
        if resume:
            if f:
                self.logger.warning("Resuming from %s; the weights %s are not read", self.get_checkpoint_file(), f)
            f = self.get_checkpoint_file()
        if not f:
            self.logger.info("No checkpoint found. The model keeps its initial weights")
            return {}
        if resume and not skip_optimizer:
            return self.resume(f, keyword, strict=strict, trust=trust)
        self._load_model(f, keyword, strict, trust)
        return {}

    def resume(
        self, f: str | os.PathLike[str], keyword: str = "model", *, strict: bool = True, trust: bool = False
    ) -> dict[str, Any]:
        """Restore model, optimizer and scheduler from checkpoint ``f``, whatever ``save_dir`` has; return the rest.

        Raises: as `load` does; CheckpointError also for a state of another optimizer or of other parameters.
        """
        checkpoint = self._load_model(f, keyword, strict, trust)
        try:
            self._restore(checkpoint)
        except ValueError as error:
            raise CheckpointError(
                f"cannot go on from {f}: {error}; to start from its weights alone: --resume none MODEL.WEIGHT {f}"
            ) from error
        return {key: value for key, value in checkpoint.items() if key not in ("model", "optimizer", "scheduler")}

    def _load_model(self, f: str | os.PathLike[str], keyword: str, strict: bool, trust: bool) -> Any:
        """Give the model the weights of ``f``; return everything that the file holds."""
        try:
            checkpoint = self._load_file(f, trust=trust)
        except CheckpointError as error:
            if others := self._others(Path(f)):
                raise CheckpointError(
                    f"{error}, or go on from another one of the run: --resume {others[-1]}"
                ) from error
            raise
        stored = select_state_dict(checkpoint, keyword, str(f))
        load_stored_weights(self.model, stored, source=str(f), strict=strict)
        return checkpoint

    def _restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Give optimizer and scheduler their stored states, as far as both the state and the object exist."""
        if self.optimizer is not None and "optimizer" in checkpoint:
            self.logger.info("Restoring the optimizer")
            self.optimizer.load_state_dict(shard_like_optimizer(checkpoint["optimizer"], self.optimizer))
        if self.scheduler is not None and "scheduler" in checkpoint:
            self.logger.info("Restoring the scheduler")
            states = checkpoint["scheduler"]
            is_list = isinstance(self.scheduler, Sequence)
            for scheduler, state in zip(
                self.scheduler if is_list else [self.scheduler], states if is_list else [states], strict=True
            ):
                if kept := ", ".join(_other_settings(scheduler.state_dict(), state)):
                    self.logger.warning("The schedule of the checkpoint goes on, not that of this run: %s", kept)
                scheduler.load_state_dict(state)

    def _others(self, path: Path) -> list[Path]:
        """The checkpoints beside one of ``save_dir``, the newest at the end."""
        if not self.save_dir or path.parent != Path(self.save_dir):
            return []
        return sorted({*path.parent.glob("model_*.pth")} - {path}, key=lambda other: other.stat().st_mtime)

    def has_checkpoint(self) -> bool:
        """True if ``save_dir`` has a tag file."""
        return bool(self.save_dir) and Path(self.save_dir, TAG_FILE).is_file()

    def get_checkpoint_file(self) -> str:
        """Path of the last checkpoint, "" if there is none."""
        return str(read_tag(Path(self.save_dir, TAG_FILE))) if self.has_checkpoint() else ""

    def tag_last_checkpoint(self, last_filename: str | os.PathLike[str]) -> None:
        """Write the bare name of ``last_filename`` into the tag file."""
        with atomic_path(Path(self.save_dir, TAG_FILE), is_durable=True) as temporary:
            temporary.write_text(Path(last_filename).name, encoding="utf-8")

    def _load_file(self, f: str | os.PathLike[str], *, trust: bool) -> Any:
        return read_checkpoint(f, trust=trust)


class DetectronCheckpointer(Checkpointer):
    """Also finds weights by published name, address, ``catalog://`` name, or the path of a tag file.

    Of ``cfg``, only the path of the catalog is read.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        scheduler: Any = None,
        save_dir: str | os.PathLike[str] = "",
        save_to_disk: bool | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        super().__init__(model, optimizer, scheduler, save_dir, save_to_disk, logger)
        self.paths_catalog: str = cfg.PATHS_CATALOG

    def _load_file(self, f: str | os.PathLike[str], *, trust: bool) -> Any:
        path = Path(f)
        if path.name == TAG_FILE and path.is_file():
            return read_checkpoint(read_tag(path), trust=trust)
        if str(f).startswith(CATALOG_SCHEME):
            f = load_catalog(self.paths_catalog).ModelCatalog.get(str(f).removeprefix(CATALOG_SCHEME))
        return read_checkpoint(resolve_weights(f), trust=trust)


def _other_settings(own: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """How the settings of a stored schedule differ from those of this run: ["max_iters 90 (this run: 100)", ...]."""
    return [
        f"{name} {stored[name]} (this run: {own[name]})" if name != "base_lrs" else "base rates"
        for name in SCHEDULE_SETTINGS
        if name in own and name in stored and own[name] != stored[name]
    ]


def read_tag(tag: Path) -> Path:
    """Path of the checkpoint that a tag file names: a bare file name in its own folder, or (old files) a full path.

    Raises: FileNotFoundError if that checkpoint is gone.
    """
    path = tag.parent / tag.read_text(encoding="utf-8").strip()
    if not path.is_file():
        raise FileNotFoundError(
            f"{tag} names {path.name!r}, and {path} does not exist; name another checkpoint (--resume PATH), or delete "
            f"{tag} to start afresh"
        )
    return path
