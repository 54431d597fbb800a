"""Datasets and loaders that a configuration asks for."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler

from maskrcnn_benchmark.config.catalog_file import load_dataset_catalog
from maskrcnn_benchmark.data import datasets as dataset_classes
from maskrcnn_benchmark.data.collate_batch import BatchCollator
from maskrcnn_benchmark.data.dataset_options import check_number_of_classes, dataset_options, number_of_copies
from maskrcnn_benchmark.data.datasets.concat import ConcatDataset, CopiedDataset
from maskrcnn_benchmark.data.datasets.image_file import BrokenImage
from maskrcnn_benchmark.data.evaluation_loader import make_evaluation_loader
from maskrcnn_benchmark.data.malformed import malformed_annotations_named
from maskrcnn_benchmark.data.reproducible import SeededBatchSampler, SeededDataset, describe_item
from maskrcnn_benchmark.data.samplers import (
    DistributedSampler,
    DistributedSamplerChunkByNode,
    GroupedBatchSampler,
    IterationBasedBatchSampler,
)
from maskrcnn_benchmark.data.transforms import build_transforms
from maskrcnn_benchmark.data.transport import PackingCollator, UnpackingLoader
from maskrcnn_benchmark.data.worker_process import start_worker
from maskrcnn_benchmark.text.tokenizer import build_tokenizer
from maskrcnn_benchmark.utils import comm

logger = logging.getLogger(__name__)

PREFETCHED_BATCHES = 2  # per worker; 64 pictures of 640x480 take 236 MB of shared memory
CHUNKED_SETS = {
    "bing_caption_train": "bing_caption_{}_train",
    "bing_caption_train_no_coco": "bing_caption_{}_train_no_coco",
}
"""Sets of captions that come in numbered parts (DATASETS.BING_INDEX_LIST): the name of the whole, and of a part."""
CHUNK_MARK = "bing_caption"  # in the names of sets that machines share out (DATALOADER.DISTRIBUTE_CHUNK_AMONG_NODE)
FACTORIES = tuple(name for name in dataset_classes.__all__ if name not in ("ConcatDataset", "CopiedDataset"))


def register_datasets(cfg, catalog, is_train: bool) -> None:
    """Adds the entries of DATASETS.REGISTER to the catalogue, under their names with the suffix of the phase.

    Raises: ValueError for an entry without fields.
    """
    for name, entry in cfg.DATASETS.REGISTER.items():
        if not isinstance(entry, Mapping):
            raise ValueError(
                f"DATASETS.REGISTER.{name}={entry!r} has no fields: write {{type: ..., img_dir: ..., ann_file: ...}}"
            )
        catalog.set(name + _suffix(cfg, is_train), dict(entry))


def dataset_names(cfg, is_train: bool) -> list[str]:
    """DATASETS.TRAIN or DATASETS.TEST, with the suffix of the phase."""
    names = cfg.DATASETS.TRAIN if is_train else cfg.DATASETS.TEST
    if isinstance(names, str):
        names = (names,)
    if any(not isinstance(name, str) for name in names):
        raise ValueError(f"DATASETS.{'TRAIN' if is_train else 'TEST'}={names!r}: groups of datasets are not supported")
    return [name + _suffix(cfg, is_train) for name in numbered_captions(names, cfg.DATASETS.BING_INDEX_LIST)]


def numbered_captions(names: Sequence[str], numbers: Sequence[int]) -> list[str]:
    """The names with a part of a set of captions for each number, in place of the whole set, at their end."""
    if not numbers:
        return list(names)
    parts = [CHUNKED_SETS[name].format(number) for name in names if name in CHUNKED_SETS for number in numbers]
    return [name for name in names if name not in CHUNKED_SETS] + parts


def _suffix(cfg, is_train: bool) -> str:
    return cfg.DATASETS.TRAIN_DATASETNAME_SUFFIX if is_train else cfg.DATASETS.TEST_DATASETNAME_SUFFIX


def make_dataset(description: Mapping[str, Any], options: Mapping[str, Any], transforms, tokenizer) -> Dataset:
    """One dataset from what the catalogue says about it and the options common to all.

    Raises: ValueError for a kind of dataset that does not exist; the text lists those that do.
    """
    factory = description["factory"]
    if factory not in FACTORIES:
        raise ValueError(f"datasets of class {factory} cannot be read; known: {', '.join(FACTORIES)}")
    arguments = {**options, **description["args"]}
    return getattr(dataset_classes, factory)(transforms=transforms, tokenizer=tokenizer, **arguments)


def find_datasets(cfg, is_train: bool) -> dict[str, dict[str, Any]]:
    """What the catalogue says about the datasets of the phase, by name, with paths that exist.

    Raises: FileNotFoundError for a file that is in no root, ValueError for a name or an entry that is wrong.
    """
    catalog = load_dataset_catalog(cfg.PATHS_CATALOG)
    register_datasets(cfg, catalog, is_train)
    return {name: catalog.get(name) for name in dataset_names(cfg, is_train)}


def build_datasets(cfg, is_train: bool) -> list[Dataset]:
    """The datasets of the phase; for training a single one, which joins all.

    Raises: ValueError if the configuration names none.
    """
    names = dataset_names(cfg, is_train)
    if not names:
        raise ValueError(f"DATASETS.{'TRAIN' if is_train else 'TEST'} is empty: name at least one dataset")
    descriptions = find_datasets(cfg, is_train)
    transforms = None if cfg.TEST.USE_MULTISCALE and not is_train else build_transforms(cfg, is_train)
    use_mlm = bool(cfg.MODEL.DYHEAD.FUSE_CONFIG.MLM_LOSS)
    tokenizer = build_tokenizer(cfg.MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE, mlm=use_mlm)
    options = dataset_options(cfg, is_train)
    built: list[Dataset] = []
    first_label = 1
    for name in names:
        with malformed_annotations_named(lambda name=name: f"dataset {name}"):  # type: ignore[misc]
            dataset = make_dataset(descriptions[name], options | {"first_label": first_label}, transforms, tokenizer)
        if cfg.DATASETS.CLASS_CONCAT:
            first_label += _number_of_classes(name, dataset)
        if not len(dataset):  # type: ignore[arg-type]
            raise ValueError(f"dataset {name} has no usable picture")
        if is_train:
            check_number_of_classes(cfg, name, dataset)
        copies = number_of_copies(cfg, name, is_train)
        logger.info("Dataset %s: %d items, %d times", name, len(dataset), copies)  # type: ignore[arg-type]
        built.append(CopiedDataset(dataset, copies) if copies > 1 else dataset)
    if not is_train:
        return built
    return built if len(built) == 1 else [ConcatDataset(built)]


def _number_of_classes(name: str, dataset: Dataset) -> int:
    """How many labels a dataset takes for itself under DATASETS.CLASS_CONCAT."""
    if not isinstance(dataset, dataset_classes.COCODataset):
        raise ValueError(
            f"DATASETS.CLASS_CONCAT numbers the categories of closed-set data, but {name} is a {type(dataset).__name__}"
        )
    return len(dataset.numbering.names)


def make_data_loader(
    cfg,
    is_train: bool = True,
    is_distributed: bool = False,
    num_replicas: int | None = None,
    rank: int | None = None,
    start_iter: int = 0,
    *,
    for_evaluation: bool = False,
):
    """The training loader, or the list of loaders of the test sets.

    A training loader has as many batches as the run has iterations; its items depend on SOLVER.SEED, the iteration and
    the rank alone, and `batch_sampler.start_iter` lets it start in the middle. With SOLVER.MAX_EPOCH > 0 the number of
    iterations follows from the data and is written to SOLVER.MAX_ITER (build the scheduler afterwards).
    A test loader goes through its set in order, each process through a part of it. With `for_evaluation` it goes from
    wide to high pictures, has the sentences of a picture together, and makes numbers of pictures on the GPU,
    which is faster and gives the same detections.
    """
    if is_train:
        return _training_loader(cfg, is_distributed, num_replicas, rank, start_iter)
    place = _place(is_distributed, num_replicas, rank)
    return [
        make_evaluation_loader(cfg, dataset, *place, worker_options=_worker_options(cfg), for_evaluation=for_evaluation)
        for dataset in build_datasets(cfg, is_train=False)
    ]


def _training_loader(cfg, is_distributed: bool, num_replicas: int | None, rank: int | None, start_iter: int):
    for key in ("ALTERNATIVE_TRAINING", "MULTISTAGE_TRAINING"):
        if cfg.DATASETS[key]:
            raise ValueError(f"DATASETS.{key} is not supported")
    num_replicas, rank = _place(is_distributed, num_replicas, rank)
    (dataset,) = build_datasets(cfg, is_train=True)
    batch_size = images_per_process(cfg.SOLVER.IMS_PER_BATCH, num_replicas, "SOLVER.IMS_PER_BATCH")
    _fix_number_of_iterations(cfg, len(dataset))  # type: ignore[arg-type]
    sampler = _training_sampler(cfg, dataset, num_replicas, rank, is_distributed=is_distributed or num_replicas > 1)
    if cfg.DATALOADER.ASPECT_RATIO_GROUPING:
        groups = aspect_ratio_groups(dataset, cfg.DATALOADER.ON_ERROR)
        batches = GroupedBatchSampler(sampler, groups, batch_size, drop_uneven=True)
    else:
        batches = BatchSampler(sampler, batch_size, drop_last=True)
    run = IterationBasedBatchSampler(batches, cfg.SOLVER.MAX_ITER)
    loader = DataLoader(
        SeededDataset(dataset, cfg.DATALOADER.ON_ERROR),
        batch_sampler=SeededBatchSampler(run, cfg.SOLVER.SEED, rank, start_iter),
        collate_fn=PackingCollator(BatchCollator(cfg.DATALOADER.SIZE_DIVISIBILITY)),
        generator=torch.Generator(),  # the loader's own draws stay away from the trainer's generator
        **_worker_options(cfg),
    )
    return UnpackingLoader(loader)


def _training_sampler(cfg, dataset: Dataset, num_replicas: int, rank: int, *, is_distributed: bool) -> Sampler[int]:
    """A process alone draws an order for every pass, by SOLVER.SEED; several share out the orders of the epochs."""
    if cfg.DATALOADER.DISTRIBUTE_CHUNK_AMONG_NODE:
        is_chunk = [CHUNK_MARK in name for name in dataset_names(cfg, is_train=True)]
        return DistributedSamplerChunkByNode(dataset, is_chunk, num_replicas, rank)  # type: ignore[arg-type]
    if not is_distributed:
        return RandomSampler(dataset)  # type: ignore[arg-type]
    return DistributedSampler(
        dataset,  # type: ignore[arg-type]
        num_replicas,
        rank,
        shuffle=True,
        use_random=cfg.DATALOADER.USE_RANDOM_SEED,
        draw_seed=_equal_random_seed,
    )


def _equal_random_seed() -> int:
    """A seed that all processes draw alike without a word: SeededBatchSampler gives them the same random numbers.

    They cannot talk here, as they do not begin a pass together where they have different numbers of full batches.
    """
    return int(np.random.randint(2**31))


def _place(is_distributed: bool, num_replicas: int | None, rank: int | None) -> tuple[int, int]:
    """(number of processes, index of this one)."""
    if not is_distributed:
        return num_replicas or 1, rank or 0
    return (
        comm.get_world_size() if num_replicas is None else num_replicas,
        comm.get_rank() if rank is None else rank,
    )


def images_per_process(batch_size: int, num_processes: int, key: str) -> int:
    """Share of a batch; ValueError when it cannot be shared out evenly."""
    if batch_size < 1 or batch_size % num_processes:
        raise ValueError(f"{key}={batch_size} must be a positive multiple of the number of processes, {num_processes}")
    return batch_size // num_processes


def _fix_number_of_iterations(cfg, dataset_length: int) -> None:
    """Writes SOLVER.MAX_ITER and SOLVER.DATASET_LENGTH where SOLVER.MAX_EPOCH rules."""
    if cfg.SOLVER.MAX_EPOCH > 0:
        was_frozen = cfg.is_frozen()
        cfg.defrost()
        cfg.SOLVER.DATASET_LENGTH = dataset_length
        cfg.SOLVER.MAX_ITER = cfg.SOLVER.MAX_EPOCH * dataset_length // cfg.SOLVER.IMS_PER_BATCH
        if was_frozen:
            cfg.freeze()
    if cfg.SOLVER.MAX_ITER < 1:
        raise ValueError(
            f"{dataset_length} items in batches of {cfg.SOLVER.IMS_PER_BATCH} for {cfg.SOLVER.MAX_EPOCH} epochs "
            f"make {cfg.SOLVER.MAX_ITER} iterations (SOLVER.MAX_ITER)"
        )


def aspect_ratio_groups(dataset: Dataset | Any, on_error: str = "raise") -> Sequence[int]:
    """For every item 1 if its picture is at least as high as wide, else 0; a copied picture is looked at once.

    A broken picture whose size no file tells counts as wide with `on_error` "skip"; the loader will leave it out.
    Raises: BrokenImage for it otherwise; ValueError for annotations that do not tell the size of a picture.
    """
    if isinstance(dataset, ConcatDataset):
        return [group for part in dataset.datasets for group in aspect_ratio_groups(part, on_error)]
    if isinstance(dataset, CopiedDataset):
        return list(aspect_ratio_groups(dataset.dataset, on_error)) * dataset.copies

    def group(index: int) -> int:
        try:
            record = dataset.get_img_info(index)
        except BrokenImage:
            if on_error != "skip":
                raise
            return 0
        try:
            return int(record["height"] >= record["width"])
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{describe_item(dataset, index)} has the width {record.get('width')!r} and the height "
                f"{record.get('height')!r}, by which batches are formed: add what is missing to the annotations, or "
                "set DATALOADER.ASPECT_RATIO_GROUPING False"
            ) from error

    return [group(index) for index in range(len(dataset))]


def _worker_options(cfg) -> dict[str, Any]:
    workers = cfg.DATALOADER.NUM_WORKERS
    return {
        "num_workers": workers,
        "pin_memory": torch.cuda.is_available(),
        "worker_init_fn": start_worker,
        "prefetch_factor": PREFETCHED_BATCHES if workers > 0 else None,
    }
