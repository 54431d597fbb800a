"""Pictures to the network's input on a GPU: bytes cross the bus, the GPU makes numbers of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from maskrcnn_benchmark.data.transforms import Compose, Normalize, ToTensor
from maskrcnn_benchmark.structures.image_list import ImageList


class ImageUpload:
    """Pads, sends and normalises pictures of their final size; equal to ToTensor, Normalize and padding up to rounding.

    Args:
        normalize: mean, deviation and channel order.
        device: where the batch goes.
        size_divisible: height and width of the batch become multiples of it; 0 leaves them.
    """

    def __init__(self, normalize: Normalize, device: torch.device, size_divisible: int = 32):
        self.device, self.size_divisible = device, size_divisible
        self.to_bgr = "bgr" in normalize.format
        unit = 1.0 if "255" in normalize.format else 255.0  # of the numbers that mean and std are given in
        self.mean = (normalize.mean * unit).flatten().to(device)
        self.scale = (1 / (normalize.std * unit)).flatten().to(device)

    def __call__(self, pictures: Sequence[Tensor] | Tensor) -> ImageList:
        """Pictures (H, W, 3) uint8 RGB on the CPU, or a batch (B, H, W, 3) -> normalised (B, 3, H', W'), zero-padded.

        Pinned memory is sent without a copy on the CPU.
        """
        sizes = [(int(picture.shape[0]), int(picture.shape[1])) for picture in pictures]
        height, width = (self._padded(max(size[axis] for size in sizes)) for axis in (0, 1))
        is_whole = all(size == (height, width) for size in sizes)
        if is_whole:
            staged = pictures if isinstance(pictures, Tensor) else torch.stack(list(pictures))
            return ImageList(self._normalized(staged.to(self.device, non_blocking=True)), sizes)
        batch = torch.zeros(len(sizes), 3, height, width, device=self.device)
        for i, (picture, (h, w)) in enumerate(zip(pictures, sizes, strict=True)):
            batch[i : i + 1, :, :h, :w] = self._normalized(picture[None].to(self.device, non_blocking=True))
        return ImageList(batch, sizes)

    def padded(self, pictures: Tensor, sizes: Sequence[tuple[int, int]]) -> ImageList:
        """The same for pictures (B, H, W, 3) uint8 that are padded already, of the given (height, width)."""
        batch = self._normalized(pictures.to(self.device, non_blocking=True))
        for number, (height, width) in enumerate(sizes):
            if height < batch.shape[2]:
                batch[number, :, height:] = 0
            if width < batch.shape[3]:
                batch[number, :, :, width:] = 0
        return ImageList(batch, list(sizes))

    def _padded(self, length: int) -> int:
        return -(-length // self.size_divisible) * self.size_divisible if self.size_divisible else length

    def _normalized(self, pictures: Tensor) -> Tensor:  # (B, H, W, 3) uint8 -> (B, 3, H, W) float32
        if self.to_bgr:
            pictures = pictures.flip(-1)
        return ((pictures - self.mean) * self.scale).permute(0, 3, 1, 2).contiguous()


def split_transforms(transforms: Compose) -> tuple[Compose, Normalize] | None:
    """The geometric part of test-time transforms and their normalisation; None if they do not end as usual."""
    match transforms.transforms:
        case [*geometry, ToTensor(), Normalize() as normalize]:
            return Compose(geometry), normalize
    return None
