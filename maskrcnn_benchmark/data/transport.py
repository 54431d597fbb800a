"""Cheap transport of batches from loader processes to the trainer.

A batch has one large tensor, the pictures, and some four hundred small ones. Only the large one travels through shared
memory, where a tensor costs an open file and a round trip; the small ones travel together as one string of bytes.
"""

import io
import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from maskrcnn_benchmark.data.reproducible import SeededDataset
from maskrcnn_benchmark.data.wrapped_loader import WrappedLoader
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList

logger = logging.getLogger(__name__)


class _InlinePickler(pickle.Pickler):
    """Stores tensors as numpy arrays, by value.

    Those without elements would come back with one address for all, whatever their types, which torch.save refuses.
    """

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor):
            return (torch.from_numpy, (obj.numpy(),)) if obj.numel() else (_empty, (tuple(obj.shape), obj.dtype))
        return NotImplemented


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype)


class PackingCollator:
    """Collates, then packs: -> (pictures (B, 3, H, W), bytes).

    Args:
        collator: makes (images, targets, ...) of a list of items.
    """

    def __init__(self, collator: Callable[[list], tuple]):
        self.collator = collator

    def __call__(self, items: list) -> tuple[Tensor, bytes]:
        images, targets, *rest = self.collator(items)
        buffer = io.BytesIO()
        _InlinePickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump((images.image_sizes, (targets, *rest)))
        return images.tensors, buffer.getvalue()


def unpack_batch(packed: tuple[Tensor, bytes]) -> tuple:
    """What the collator returned, with the pictures where the loader put them."""
    tensors, data = packed
    image_sizes, rest = pickle.loads(data)
    return ImageList(tensors, image_sizes), *rest


class UnpackingLoader(WrappedLoader):
    """A DataLoader over packed batches that yields unpacked ones; `batch_sampler.start_iter` may be set before use."""

    def __init__(self, loader: DataLoader):
        super().__init__(loader)
        self._reported: set[str] = set()

    @property
    def dataset(self) -> Dataset:
        """The data as they are built, without the seeds that a sampler gives them."""
        dataset = self.loader.dataset
        return dataset.dataset if isinstance(dataset, SeededDataset) else dataset

    @property
    def collate_fn(self) -> Callable[[list], tuple]:
        """What makes an unpacked batch of items, a BatchCollator."""
        return self.loader.collate_fn.collator

    def __iter__(self) -> Iterator[tuple]:
        for packed in self.loader:
            batch = unpack_batch(packed)
            self._report_skipped(batch[1])
            yield batch

    def _report_skipped(self, targets: Sequence[BoxList]) -> None:
        """Says of every picture that was left out, once, why."""
        for target in targets:
            for message in target.get_field("skipped_images") if target.has_field("skipped_images") else ():
                if message not in self._reported:
                    self._reported.add(message)
                    logger.warning("%s; the next picture is taken instead (DATALOADER.ON_ERROR)", message)
