"""Cheap transport of batches from loader processes to the trainer.

A batch has one large tensor, the pictures, and some four hundred small ones. Only the large one travels through shared
memory, where a tensor costs an open file and a round trip; the small ones travel together as one string of bytes.
"""

import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from maskrcnn_benchmark.structures.image_list import ImageList

TRAINING_FIELDS = ("labels", "original_od_label", "positive_map_for_od_labels", "tokens_positive", "caption")
"""Fields of a target that a model reads in training; token maps come once for the whole batch."""


class _InlinePickler(pickle.Pickler):
    """Stores tensors as numpy arrays, by value."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor):
            return torch.from_numpy, (obj.numpy(),)
        return NotImplemented


class PackingCollator:
    """Collates, then packs: -> (pictures (B, 3, H, W), bytes).

    Args:
        collator: makes (images, targets, ...) of a list of items.
        fields: what is kept of every target; None keeps everything.
    """

    def __init__(self, collator: Callable[[list], tuple], fields: Sequence[str] | None = None):
        self.collator = collator
        self.fields = fields

    def __call__(self, items: list) -> tuple[Tensor, bytes]:
        images, targets, *rest = self.collator(items)
        if self.fields is not None:
            targets = tuple(target.copy_with_fields(self.fields, skip_missing=True) for target in targets)
        buffer = io.BytesIO()
        _InlinePickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump((images.image_sizes, (targets, *rest)))
        return images.tensors, buffer.getvalue()


def unpack_batch(packed: tuple[Tensor, bytes]) -> tuple:
    """What the collator returned, with the pictures where the loader put them."""
    tensors, data = packed
    image_sizes, rest = pickle.loads(data)
    return ImageList(tensors, image_sizes), *rest


class UnpackingLoader:
    """A DataLoader over packed batches that yields unpacked ones; `batch_sampler.start_iter` may be set before use."""

    def __init__(self, loader: DataLoader):
        self.loader = loader

    @property
    def dataset(self):
        return self.loader.dataset

    @property
    def batch_sampler(self):
        return self.loader.batch_sampler

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple]:
        return map(unpack_batch, iter(self.loader))
