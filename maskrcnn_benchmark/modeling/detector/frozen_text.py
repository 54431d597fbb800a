"""What a frozen text encoder made of captions that come again in training."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch

from maskrcnn_benchmark.modeling.language_backbone import TextFeatures


class TextMemory:
    """Keeps the features of the latest batches of captions.

    A frozen encoder is in evaluation mode, without dropout, so that it would give the same numbers again: what is kept
    is what it gave for the very same batch.

    Args:
        capacity: batches that are kept; 256 tokens of 768 numbers take 1.5 MB for each caption.
    """

    def __init__(self, capacity: int = 8):
        self.capacity = capacity
        self._kept: OrderedDict[tuple, TextFeatures] = OrderedDict()

    def __reduce__(self) -> tuple:
        """Copies, which `copy.deepcopy` and `pickle` make with the model, are empty."""
        return TextMemory, (self.capacity,)

    def __len__(self) -> int:
        return len(self._kept)

    def __call__(
        self, captions: Sequence[str], device: torch.device, encode: Callable[[], TextFeatures]
    ) -> TextFeatures:
        """The features of a batch of captions; `encode` makes them where they are not kept."""
        is_autocast = torch.is_autocast_enabled(device.type)
        key = (tuple(captions), torch.get_autocast_dtype(device.type) if is_autocast else None)
        if key not in self._kept:
            self._kept[key] = encode()
            if len(self._kept) > self.capacity:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def clear(self) -> None:
        """To be called when weights change, or the device."""
        self._kept.clear()
