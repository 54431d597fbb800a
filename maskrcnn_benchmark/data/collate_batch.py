"""From dataset items to the batch that the model and the trainer take."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList


def concatenate_positive_maps(maps: Sequence[Tensor]) -> Tensor:
    """Maps (N_i, T_i) of the pictures, one below the other, as 0/1 floats (sum N_i, max T_i).

    The weights 1/n of a row become 1, as the published models were trained; the number of a picture's boxes says which
    rows are its own.
    """
    rows = sum(len(positive_map) for positive_map in maps)
    merged = torch.zeros(rows, max(positive_map.shape[1] for positive_map in maps))
    begin = 0
    for positive_map in maps:
        end = begin + len(positive_map)
        merged[begin:end, : positive_map.shape[1]] = positive_map != 0
        begin = end
    return merged


def columns(batch: Sequence[tuple[Any, ...]]) -> tuple[tuple, tuple, tuple]:
    """Pictures, targets and indices of items, which may have more at their ends (ODTSVDataset's do)."""
    images, targets, indices = zip(*(item[:3] for item in batch), strict=True)
    return images, targets, indices


def batch_images(images: Sequence[Tensor], size_divisible: int = 0) -> ImageList:
    """What to_image_list makes; inside a loader process the batch is built in the memory it travels in."""
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    if size_divisible > 0:
        height, width = (-(-side // size_divisible) * size_divisible for side in (height, width))
    batch = empty_batch((len(images), images[0].shape[0], height, width), images[0].dtype)
    for place, image, (image_height, image_width) in zip(batch, images, sizes, strict=True):
        place[:, :image_height, :image_width] = image
        place[:, image_height:] = 0
        place[:, :image_height, image_width:] = 0
    return ImageList(batch, sizes)


def empty_batch(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory for a batch; in a loader process it is shared with the trainer, as default_collate's is."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape)


class BatchCollator:
    """Makes (ImageList, targets, indices, positive_map, positive_map_eval, greenlight_map) of the items of a batch.

    The three maps are None where the targets do not have them: positive_map (sum of boxes, T), positive_map_eval (sum
    of phrases, T), greenlight_map (B, T). Targets that are not BoxLists give a tuple of five whose maps are None.

    Args:
        size_divisible: the padded height and width are multiples of it.
    """

    def __init__(self, size_divisible: int = 0):
        self.size_divisible = size_divisible

    def __call__(self, batch: Sequence[tuple[Any, ...]]):
        images, targets, indices = columns(batch)
        image_list = batch_images(images, self.size_divisible)
        if not isinstance(targets[0], BoxList):
            return image_list, targets, indices, None, None
        positive_map = self._gather(targets, "positive_map")
        positive_map_eval = self._gather(targets, "positive_map_eval")
        greenlight_map = self._gather(targets, "greenlight_map")
        return (
            image_list,
            targets,
            indices,
            None if positive_map is None else concatenate_positive_maps(positive_map),
            None if positive_map_eval is None else concatenate_positive_maps(positive_map_eval),
            None if greenlight_map is None else torch.stack(greenlight_map),
        )

    def _gather(self, targets: Sequence[BoxList], field: str) -> list[Tensor] | None:
        """The field of every target; None if none has it; ValueError if only some do."""
        present = [target.has_field(field) for target in targets]
        if not any(present):
            return None
        if not all(present):
            reason = "data with and without captions cannot be mixed (dataset names or TRAIN_DATASETNAME_SUFFIX)"
            if field == "positive_map_eval":
                reason = "every sentence of a test set needs phrases to evaluate (tokens_positive_eval)"
            raise ValueError(f"{present.count(False)} of {len(targets)} targets of a batch have no {field}: {reason}")
        return [target.get_field(field) for target in targets]


class BBoxAugCollator:
    """Leaves pictures and targets unbatched, for testing at several scales."""

    def __call__(self, batch: Sequence[tuple[Any, ...]]):
        images, targets, indices = columns(batch)
        return images, targets, indices, None, None
