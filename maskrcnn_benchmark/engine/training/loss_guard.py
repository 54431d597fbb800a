"""A loss that is not finite stops the run, with everything needed to find out why."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maskrcnn_benchmark.engine.training.guarded_step import LossNotFinite
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.complete_files import atomic_path
from maskrcnn_benchmark.utils.weight_files import write_pickled

BAD_BATCH = "bad_batch_"
"""What the names of saved batches begin with, which lie beside the checkpoints."""

logger = logging.getLogger("maskrcnn_benchmark.trainer")


class _Outcome(NamedTuple):
    """One iteration; `values` is whether the step was skipped, then the losses, on the way to the host."""

    iteration: int
    names: tuple[str, ...]
    values: Tensor
    copied: torch.cuda.Event | None
    batch: Sequence[Any]


class LossGuard:
    """Looks at every loss; on a GPU one iteration late, so that the host does not wait for the newest one.

    The step itself was skipped at once, by `GuardedStep`, on all processes; so all come to the same decision here.

    Args:
        max_bad_losses: iterations of this part of the run that may be skipped; one more raises.
        is_overflow_normal: gradients may be infinite although the losses are finite, as with a dynamic loss scale.
        folder: where the batch is saved, None for nowhere.
        describe: dataset index -> the picture's name, for the message.
    """

    def __init__(
        self,
        max_bad_losses: int,
        is_overflow_normal: bool,
        folder: Path | None,
        describe: Callable[[int], str],
    ):
        self.max_bad_losses = max_bad_losses
        self.is_overflow_normal = is_overflow_normal
        self.folder = folder
        self.describe = describe
        self.bad_losses = 0
        self._latest: _Outcome | None = None

    def watch(self, iteration: int, losses: Mapping[str, Tensor], is_skipped: Tensor, batch: Sequence[Any]) -> None:
        """Takes in an iteration. `batch` is what the collator returned.

        Raises: LossNotFinite.
        """
        values = torch.stack([is_skipped.float(), *(loss.detach().float() for loss in losses.values())])
        values, copied = _copy_to_host(values)
        previous, self._latest = self._latest, _Outcome(iteration, tuple(losses), values, copied, batch)
        if previous is not None:
            self._look_at(previous)
        if copied is None:
            self.check()

    def check(self) -> None:
        """Looks at what is still on the way. Raises: LossNotFinite."""
        latest, self._latest = self._latest, None
        if latest is not None:
            self._look_at(latest)

    def _look_at(self, outcome: _Outcome) -> None:
        if outcome.copied is not None:
            outcome.copied.synchronize()
        if not outcome.values[0]:
            return
        is_bad = not bool(outcome.values[1:].isfinite().all())
        messages = [message for message in comm.all_gather(self._report(outcome) if is_bad else "") if message]
        if not messages:
            if self.is_overflow_normal:
                return
            messages = [f"iteration {outcome.iteration}: a gradient is not finite, the losses are ({_losses(outcome)})"]
        self.bad_losses += 1
        message = "; ".join(messages)
        if self.bad_losses > self.max_bad_losses:
            raise LossNotFinite(f"{message}; stopped after {self.bad_losses} (SOLVER.MAX_BAD_LOSSES)")
        logger.error("%s; skipped, %d of %d (SOLVER.MAX_BAD_LOSSES)", message, self.bad_losses, self.max_bad_losses)

    def _report(self, outcome: _Outcome) -> str:
        """Saves the batch of this process; returns what to say about it."""
        targets = outcome.batch[1]
        indices = [target.get_field("dataset_index") for target in targets if target.has_field("dataset_index")]
        message = (
            f"iteration {outcome.iteration}, process {comm.get_rank()}: loss not finite ({_losses(outcome)}), pictures "
            f"{', '.join(self.describe(index) for index in indices) or 'unknown'}"
        )
        if self.folder is None:
            return message
        path = self.folder / f"{BAD_BATCH}{outcome.iteration:07d}_rank{comm.get_rank()}.pth"
        try:
            with atomic_path(path) as temporary:
                write_pickled(_content(outcome, indices), temporary)
        except (OSError, RuntimeError) as error:  # the latter of torch.save; the other processes wait for the message
            return f"{message}, batch not saved ({error})"
        return f"{message}, batch saved in {path}"


def _copy_to_host(values: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """The values on the host, and what tells that they have arrived; None if they are there already."""
    if not values.is_cuda:
        return values, None
    values = values.to("cpu", non_blocking=True)  # into pinned memory: the host goes on
    copied = torch.cuda.Event()
    copied.record()
    return values, copied


def _losses(outcome: _Outcome) -> str:
    values = outcome.values[1:].tolist()
    return ", ".join(f"{name} {value:.4g}" for name, value in zip(outcome.names, values, strict=True))


def _content(outcome: _Outcome, indices: list[int]) -> dict[str, Any]:
    """The batch as plain tensors and lists, which can be read without trust in the file."""
    images, targets, _, positive_map, _, greenlight_map = outcome.batch
    return {
        "iteration": outcome.iteration,
        "losses": dict(zip(outcome.names, outcome.values[1:].tolist(), strict=True)),
        "dataset_indices": indices,
        "images": images.tensors,
        "image_sizes": [tuple(size) for size in images.image_sizes],
        "boxes": [target.bbox for target in targets],
        "labels": [target.get_field("labels") for target in targets if target.has_field("labels")],
        "captions": [target.get_field("caption") for target in targets if target.has_field("caption")],
        "positive_map": positive_map,
        "greenlight_map": greenlight_map,
    }
