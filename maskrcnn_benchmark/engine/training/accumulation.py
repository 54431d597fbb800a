"""A batch computed in parts: the memory of a part, the step of the whole."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from maskrcnn_benchmark.engine.training.guarded_step import GuardedStep
from maskrcnn_benchmark.modeling.rpn.targets import Normalizers
from maskrcnn_benchmark.modeling.rpn.vldyhead import VLDyHeadModule
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList
from maskrcnn_benchmark.utils.weight_conversion import unwrap_model

_EXCHANGED: WeakSet[nn.Module] = WeakSet()


class TrainingBatch(NamedTuple):
    """What a model is trained on, on its device.

    Attributes: captions: of the pictures, empty for data without; positive_map: (R, T), the R boxes of the pictures one
        after another; greenlight_map: (B, T).
    """

    images: ImageList
    targets: Sequence[BoxList]
    captions: Sequence[str]
    positive_map: Tensor | None
    greenlight_map: Tensor | None

    def split(self, count: int) -> list["TrainingBatch"]:
        """Parts of equally many pictures, padded as the whole.

        Raises: ValueError if `count` does not divide the number of pictures.
        """
        if count == 1:
            return [self]
        pictures = len(self.targets)
        if pictures % count:
            raise ValueError(
                f"SOLVER.GRADIENT_ACCUMULATION={count} does not divide the {pictures} pictures of a process "
                "(SOLVER.IMS_PER_BATCH over the number of processes)"
            )
        size = pictures // count
        boxes = [len(target) for target in self.targets]
        parts = []
        for first in range(0, pictures, size):
            chosen = slice(first, first + size)
            rows = slice(sum(boxes[:first]), sum(boxes[: first + size]))
            parts.append(
                TrainingBatch(
                    ImageList(
                        self.images.tensors[chosen],
                        self.images.image_sizes[chosen],
                        None if self.images.names is None else self.images.names[chosen],
                    ),
                    self.targets[chosen],
                    self.captions[chosen],
                    None if self.positive_map is None else self.positive_map[rows],
                    None if self.greenlight_map is None else self.greenlight_map[chosen],
                )
            )
        return parts

    def losses(self, model: nn.Module) -> dict[str, Tensor]:
        """What the model loses on it, by name; data without captions go to models that take none."""
        if not self.captions:
            return model(self.images, self.targets)
        return model(self.images, self.targets, self.captions, self.positive_map, greenlight_map=self.greenlight_map)


def backward_in_parts(
    model: nn.Module,
    batch: TrainingBatch,
    count: int,
    step: GuardedStep,
    autocast: Callable[[], AbstractContextManager],
) -> dict[str, Tensor]:
    """Adds the gradients of a batch, computed in `count` parts, to a step that has begun; returns the losses.

    Losses and gradients are means over the parts. As the terms of the detector are divided by what the whole batch has,
    they equal those of the whole; of masked words each part has a mean of its own. Several processes exchange gradients
    in the last part.
    """
    parts = batch.split(count)
    losses = []
    with _normalizers_of_all(model, batch, count):
        for number, part in enumerate(parts, start=1):
            with _gradient_exchange(model, is_on=number == count):
                with autocast():
                    losses.append(part.losses(model))
                    total = torch.stack([loss.float() for loss in losses[-1].values()]).sum()
                step.backward(total if count == 1 else total / count)
    return _mean(losses)


@contextmanager
def _normalizers_of_all(model: nn.Module, batch: TrainingBatch, count: int) -> Iterator[None]:
    """Within the block the detector divides the losses of a part by what is in the whole batch over the parts."""
    head = getattr(unwrap_model(model), "rpn", None)
    if count == 1 or not isinstance(head, VLDyHeadModule):
        yield
        return
    height, width = batch.images.tensors.shape[-2:]
    sizes = [(-(-height // stride), -(-width // stride)) for stride in head.anchor_generator.strides]
    grids = head.anchor_generator.grid_anchors(sizes, batch.images.tensors.device)
    anchors = [BoxList(grid, (width, height)) for grid in grids]
    whole = head.loss_evaluator.measure_normalizers(batch.targets, [anchors])
    head.loss_evaluator.normalizers = Normalizers(*(value / count for value in whole))
    try:
        yield
    finally:
        head.loss_evaluator.normalizers = None


@contextmanager
def _gradient_exchange(model: nn.Module, *, is_on: bool) -> Iterator[None]:
    """Within the block several processes average their gradients in the backward pass, or each keeps its own."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(is_on)
        yield
    elif isinstance(model, nn.parallel.DistributedDataParallel):
        # A static graph is learnt in the first backward pass, with the exchange; that is right for a part, too, as
        # the mean over processes of means so far and new gradients is the mean of both.
        is_first, _ = model not in _EXCHANGED, _EXCHANGED.add(model)
        with nullcontext() if is_on or is_first else model.no_sync():
            yield
    else:
        yield


def _mean(losses: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    if len(losses) == 1:
        return dict(losses[0])
    return {name: torch.stack([part[name].detach().float() for part in losses]).mean() for name in losses[0]}
