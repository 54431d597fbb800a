"""Data that depend on the seed and the iteration alone: not on workers, and not on where a run was interrupted."""

import hashlib
from collections.abc import Iterable, Iterator
from functools import partial

from torch.utils.data import Dataset

from maskrcnn_benchmark.data.datasets.image_file import BrokenImage, MissingImage
from maskrcnn_benchmark.data.malformed import malformed_annotations_named
from maskrcnn_benchmark.utils.random_state import OwnRandomness, seeded

ON_ERROR = ("raise", "skip")
MAX_SKIPPED_IN_A_ROW = 20  # pictures; a disk that is not there is no matter of single pictures


class SampleKey(int):
    """Index of an item to load, with the seed of everything random in it."""

    seed: int

    def __new__(cls, index: int, seed: int) -> "SampleKey":
        key = super().__new__(cls, index)
        key.seed = seed
        return key

    def __getnewargs__(self) -> tuple[int, int]:
        return int(self), self.seed


def sample_seed(*numbers: int) -> int:
    """A seed of 63 bits that is a fixed function of the numbers."""
    text = ",".join(map(str, numbers)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


class SeededBatchSampler:
    """Yields the batches of a sampler as lists of SampleKey, from iteration `start_iter` on.

    Args:
        batch_sampler: batches of indices of a whole run; what it draws follows from the seed alone.
        seed, rank: of the run and of the process.
        start_iter: batches that an earlier part of the run has used; they are drawn and left out.
    """

    def __init__(self, batch_sampler: Iterable[list[int]], seed: int = 0, rank: int = 0, start_iter: int = 0):
        self.batch_sampler = batch_sampler
        self.seed = seed
        self.rank = rank
        self.start_iter = start_iter

    def __iter__(self) -> Iterator[list[SampleKey]]:
        randomness = OwnRandomness(sample_seed(self.seed))  # of an order that is drawn anew for every pass
        with randomness.active():
            batches = enumerate(self.batch_sampler)
            for _ in zip(range(self.start_iter), batches, strict=False):
                pass
        while True:
            with randomness.active():
                iteration, batch = next(batches, (-1, None))
            if batch is None:
                return
            yield [
                SampleKey(index, sample_seed(self.seed, self.rank, iteration, slot)) for slot, index in enumerate(batch)
            ]

    def __len__(self) -> int:
        return len(self.batch_sampler)  # type: ignore[arg-type]


class SeededDataset(Dataset):
    """Loads the items that a SeededBatchSampler asks for; random states outside an item are not touched.

    Targets get the field `dataset_index`, by which `describe_item` knows the picture.

    Args:
        on_error: "raise", or "skip" to take the next item instead of one whose picture is missing or broken. The target
            of the next one then has the field `skipped_images`, the messages in a list.
    Raises: BrokenImage, MissingImage; with "skip" after MAX_SKIPPED_IN_A_ROW pictures. ValueError, with the item, for
        annotations that lack something.
    """

    def __init__(self, dataset: Dataset, on_error: str = "raise"):
        if on_error not in ON_ERROR:
            raise ValueError(f"DATALOADER.ON_ERROR={on_error!r}: known are {', '.join(ON_ERROR)}")
        self.dataset = dataset
        self.tries = MAX_SKIPPED_IN_A_ROW if on_error == "skip" else 1

    def __getitem__(self, key: SampleKey):
        skipped: list[str] = []
        while True:
            index = (key + len(skipped)) % len(self)
            try:
                with seeded(key.seed), malformed_annotations_named(partial(describe_item, self.dataset, index)):
                    image, target, local_index = self.dataset[index][:3]
                break
            except (BrokenImage, MissingImage) as error:
                skipped.append(str(error))
                if len(skipped) == self.tries:
                    raise
        target.add_field("dataset_index", index, per_box=False)
        if skipped:
            target.add_field("skipped_images", skipped, per_box=False)
        return image, target, local_index

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]


def describe_item(dataset: Dataset | None, index: int) -> str:
    """File name and id of an item's picture as far as the dataset knows them, for messages."""
    if isinstance(dataset, SeededDataset):
        dataset = dataset.dataset
    get_record = getattr(dataset, "get_img_info", None)
    record = {} if get_record is None else get_record(index)
    known = [f"{key} {record[key]}" for key in ("file_name", "key", "id") if key in record]
    return " ".join([f"item {index}", *known])
