"""Loaders of test sets: every item once over all processes."""

from collections.abc import Hashable, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

from maskrcnn_benchmark.data.collate_batch import BatchCollator, BBoxAugCollator
from maskrcnn_benchmark.data.datasets.concat import CopiedDataset
from maskrcnn_benchmark.data.datasets.modulated import GroundingJson
from maskrcnn_benchmark.data.picture_files import picture_file
from maskrcnn_benchmark.data.samplers.evaluation import EvaluationBatches


def images_per_test_batch(batch_size: int, num_processes: int) -> int:
    """Share of a process in TEST.IMS_PER_BATCH, at least one. Raises: ValueError for a size below 1."""
    if batch_size < 1:
        raise ValueError(f"TEST.IMS_PER_BATCH={batch_size}: give a positive number of pictures")
    return max(1, batch_size // num_processes)


def make_evaluation_loader(
    cfg, dataset: Dataset, num_replicas: int, rank: int, worker_options: dict[str, Any]
) -> DataLoader:
    """A loader over this process's part of a test set; its `batch_sampler` is an `EvaluationBatches`.

    A set that is repeated (DATASETS.GENERAL_COPY_TEST) is read once.
    """
    if isinstance(dataset, CopiedDataset):
        dataset = dataset.dataset
    size = len(dataset)  # type: ignore[arg-type]
    is_multiscale = cfg.TEST.USE_MULTISCALE
    batches = EvaluationBatches(
        size,
        images_per_test_batch(cfg.TEST.IMS_PER_BATCH, num_replicas),
        num_replicas,
        rank,
        shapes=orientations(dataset) if cfg.DATALOADER.ASPECT_RATIO_GROUPING and not is_multiscale else None,
        pictures=[picture_file(dataset, i) for i in range(size)] if isinstance(dataset, GroundingJson) else None,
        limit=cfg.TEST.SUBSET,
    )
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=BBoxAugCollator() if is_multiscale else BatchCollator(cfg.DATALOADER.SIZE_DIVISIBILITY),
        **worker_options,
    )


def orientations(dataset: Dataset | Any) -> Sequence[Hashable] | None:
    """For every item whether its picture is at least as high as wide; None for a dataset that does not know."""
    if not hasattr(dataset, "get_img_info"):
        return None
    records = (dataset.get_img_info(index) for index in range(len(dataset)))
    return [record["height"] >= record["width"] for record in records]
