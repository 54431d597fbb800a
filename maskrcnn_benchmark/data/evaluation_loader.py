"""Loaders of test sets: every item once over all processes."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from maskrcnn_benchmark.data.collate_batch import BatchCollator, BBoxAugCollator, columns, empty_batch
from maskrcnn_benchmark.data.datasets.concat import CopiedDataset
from maskrcnn_benchmark.data.datasets.modulated import GroundingJson
from maskrcnn_benchmark.data.picture_files import picture_file
from maskrcnn_benchmark.data.samplers.evaluation import EvaluationBatches
from maskrcnn_benchmark.data.transforms.transforms import Compose
from maskrcnn_benchmark.data.transport import PackingCollator, unpack_batch
from maskrcnn_benchmark.data.upload import ImageUpload, split_transforms
from maskrcnn_benchmark.data.wrapped_loader import WrappedLoader
from maskrcnn_benchmark.structures.image_list import ImageList


def images_per_test_batch(batch_size: int, num_processes: int) -> int:
    """Share of a process in TEST.IMS_PER_BATCH, at least one. Raises: ValueError for a size below 1."""
    if batch_size < 1:
        raise ValueError(f"TEST.IMS_PER_BATCH={batch_size}: give a positive number of pictures")
    return max(1, batch_size // num_processes)


def make_evaluation_loader(
    cfg, dataset: Dataset, num_replicas: int, rank: int, worker_options: dict[str, Any], *, for_evaluation: bool = False
) -> "DataLoader | UploadingLoader":
    """A loader over this process's part of a test set; its `batch_sampler` is an `EvaluationBatches`.

    A set that is repeated (DATASETS.GENERAL_COPY_TEST) is read once.

    Args:
        for_evaluation: not in the order of the items: neighbours by shape share a batch, and sentences of a picture do.
            Where the model runs on a GPU, pictures travel as bytes, a quarter of the numbers, and are normalised there.
    """
    if isinstance(dataset, CopiedDataset):
        dataset = dataset.dataset
    size = len(dataset)  # type: ignore[arg-type]
    is_multiscale = cfg.TEST.USE_MULTISCALE
    divisor = cfg.DATALOADER.SIZE_DIVISIBILITY
    shares_pictures = for_evaluation and isinstance(dataset, GroundingJson)
    batches = EvaluationBatches(
        size,
        images_per_test_batch(cfg.TEST.IMS_PER_BATCH, num_replicas),
        num_replicas,
        rank,
        ratios=aspect_ratios(dataset) if cfg.DATALOADER.ASPECT_RATIO_GROUPING and not is_multiscale else None,
        by_ratio=for_evaluation,
        pictures=[picture_file(dataset, i) for i in range(size)] if shares_pictures else None,
        limit=cfg.TEST.SUBSET,
    )
    upload = _upload(cfg, dataset, divisor) if for_evaluation and not is_multiscale else None
    if upload is not None:
        collator = PackingCollator(ByteCollator(divisor))
        return UploadingLoader(
            DataLoader(dataset, batch_sampler=batches, collate_fn=collator, **worker_options), upload
        )
    collate = BBoxAugCollator() if is_multiscale else BatchCollator(divisor)
    return DataLoader(dataset, batch_sampler=batches, collate_fn=collate, **worker_options)


def _upload(cfg, dataset: Dataset | Any, size_divisible: int) -> ImageUpload | None:
    """What makes numbers of pictures on the GPU; takes that part out of the dataset's transforms. None on a CPU."""
    transforms = getattr(dataset, "transforms", None)
    parts = split_transforms(transforms) if isinstance(transforms, Compose) else None
    if parts is None or torch.device(cfg.MODEL.DEVICE).type != "cuda" or not torch.cuda.is_available():
        return None
    dataset.transforms, normalize = parts
    return ImageUpload(normalize, torch.device("cuda", torch.cuda.current_device()), size_divisible)


class ByteCollator:
    """Makes (ImageList of bytes (B, H, W, 3), targets, indices) of items whose pictures are Pillow images.

    Args:
        size_divisible: the padded height and width are multiples of it.
    """

    def __init__(self, size_divisible: int = 0):
        self.size_divisible = max(size_divisible, 1)

    def __call__(self, batch: Sequence[tuple[Any, ...]]) -> tuple[ImageList, tuple, tuple]:
        pictures, targets, indices = columns(batch)
        sizes = [(picture.height, picture.width) for picture in pictures]
        height, width = (
            -(-max(side) // self.size_divisible) * self.size_divisible for side in zip(*sizes, strict=True)
        )
        padded = empty_batch((len(pictures), height, width, 3), torch.uint8)
        for part, picture, (h, w) in zip(padded, pictures, sizes, strict=True):
            part[:h, :w] = torch.from_numpy(np.array(picture))
            part[h:] = 0
            part[:h, w:] = 0
        return ImageList(padded, sizes), targets, indices


class UploadingLoader(WrappedLoader):
    """A loader over packed batches of bytes that yields unpacked ones, normalised on the device.

    Args:
        loader: its collator is a PackingCollator of a ByteCollator; the pictures of its dataset are bytes.
        upload: makes numbers of bytes.
    """

    def __init__(self, loader: DataLoader, upload: ImageUpload):
        super().__init__(loader)
        self.upload = upload

    def __iter__(self) -> Iterator[tuple[ImageList, tuple, tuple]]:
        return map(self._unpacked, self.loader)

    def collate_fn(self, items: list) -> tuple[ImageList, tuple, tuple]:
        """The batch of some items of the dataset."""
        return self._unpacked(self.loader.collate_fn(items))

    def _unpacked(self, packed: tuple[torch.Tensor, bytes]) -> tuple[ImageList, tuple, tuple]:
        images, targets, indices = unpack_batch(packed)
        return self.upload.padded(images.tensors, images.image_sizes), targets, indices


def aspect_ratios(dataset: Dataset | Any) -> Sequence[float] | None:
    """For every item the height of its picture by the width; None for a dataset that does not know."""
    if not hasattr(dataset, "get_img_info"):
        return None
    records = (dataset.get_img_info(index) for index in range(len(dataset)))
    return [record["height"] / record["width"] for record in records]
