"""Several datasets as one, and one dataset several times."""

from typing import Any

from torch.utils.data import ConcatDataset as TorchConcatDataset
from torch.utils.data import Dataset


class ConcatDataset(TorchConcatDataset):
    """Datasets one after the other. The index inside an item is that of its own dataset."""

    def get_idxs(self, index: int) -> tuple[int, int]:
        """(number of the dataset, index in it)."""
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of a dataset of {len(self)} items")
        number = next(i for i, end in enumerate(self.cumulative_sizes) if index < end)
        return number, index - (self.cumulative_sizes[number - 1] if number else 0)

    def get_img_info(self, index: int) -> dict[str, Any]:
        """Record of a picture: at least `height` and `width`."""
        number, local_index = self.get_idxs(index)
        return self.datasets[number].get_img_info(local_index)


class CopiedDataset(Dataset):
    """A dataset `copies` times over; items keep their true index, so that an evaluation sees each picture once."""

    def __init__(self, dataset: Dataset, copies: int):
        if copies < 1:
            raise ValueError(f"copies={copies}: a dataset is used at least once")
        self.dataset = dataset
        self.copies = copies

    def __getitem__(self, index: int):
        return self.dataset[index % len(self.dataset)]  # type: ignore[arg-type]

    def __len__(self) -> int:
        return self.copies * len(self.dataset)  # type: ignore[arg-type]

    def get_img_info(self, index: int) -> dict[str, Any]:
        """Record of a picture: at least `height` and `width`."""
        return self.dataset.get_img_info(index % len(self.dataset))  # type: ignore[attr-defined, arg-type]

    def __getattr__(self, name: str) -> Any:
        """Everything else is that of the dataset (`categories`, `coco`, ...)."""
        if name == "dataset":  # not there yet while being unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)
