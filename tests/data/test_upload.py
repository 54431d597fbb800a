"""The network's input made of bytes on the device equals the transforms on the CPU."""

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn_benchmark.config import default_config
from maskrcnn_benchmark.data.transforms import Compose, Normalize, ToTensor, build_transforms
from maskrcnn_benchmark.data.upload import ImageUpload, split_transforms
from maskrcnn_benchmark.structures.image_list import to_image_list

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def pictures(*sizes: tuple[int, int]) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("format", ["bgr255", "rgb"])
@pytest.mark.parametrize("sizes", [((64, 96), (64, 96)), ((50, 70), (61, 33)), ((32, 32),)])
def test_equals_the_transforms(device, format, sizes):
    mean, std = ((103.53, 116.28, 123.675), (57.375, 57.12, 58.395))
    if format == "rgb":
        mean, std = [tuple(value / 255 for value in values) for values in (mean, std)]
    normalize = Normalize(mean, std, format=format)
    images = pictures(*sizes)
    transform = Compose([ToTensor(), normalize])
    expected = to_image_list([transform(Image.fromarray(image))[0] for image in images], 32)
    upload = ImageUpload(normalize, torch.device(device), 32)
    batch = upload([torch.from_numpy(image) for image in images])
    assert batch.image_sizes == expected.image_sizes
    torch.testing.assert_close(batch.tensors.cpu(), expected.tensors, atol=1e-5, rtol=0)


def test_a_whole_batch_of_bytes():
    normalize = Normalize((1.0, 2, 3), (4.0, 5, 6), format="bgr255")
    images = torch.from_numpy(np.stack(pictures((30, 40), (30, 40))))
    upload = ImageUpload(normalize, torch.device("cpu"), 0)
    torch.testing.assert_close(upload(images).tensors, upload(list(images)).tensors)


def test_test_time_transforms_are_split():
    geometry, normalize = split_transforms(build_transforms(default_config(), is_train=False))
    assert len(geometry.transforms) == 2 and isinstance(normalize, Normalize)
    assert split_transforms(Compose([ToTensor()])) is None
