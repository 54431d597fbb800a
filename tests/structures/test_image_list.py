import pickle

import pytest
import torch

from maskrcnn_benchmark.structures.image_list import ImageList, to_image_list


def test_pictures_are_padded_at_the_right_and_the_bottom_with_zeros():
    batch = to_image_list([torch.ones(3, 5, 7), 2 * torch.ones(3, 6, 4)])
    assert batch.tensors.shape == (2, 3, 6, 7)
    assert batch.image_sizes == [(5, 7), (6, 4)]
    assert batch.tensors[0, :, :5].eq(1).all() and batch.tensors[0, :, 5:].eq(0).all()
    assert batch.tensors[1, :, :, :4].eq(2).all() and batch.tensors[1, :, :, 4:].eq(0).all()


@pytest.mark.parametrize(("divisor", "expected"), [(0, (33, 64)), (1, (33, 64)), (32, (64, 64))])
def test_divisibility(divisor, expected):
    batch = to_image_list([torch.ones(3, 33, 64)], divisor)
    assert tuple(batch.tensors.shape[-2:]) == expected
    assert batch.image_sizes == [(33, 64)]


def test_tensors_and_image_lists():
    tensor = torch.rand(2, 3, 4, 6)
    batch = to_image_list(tensor)
    assert torch.equal(batch.tensors, tensor) and batch.image_sizes == [(4, 6), (4, 6)] and len(batch) == 2
    assert to_image_list(batch) is batch
    assert to_image_list(tensor[0]).tensors.shape == (1, 3, 4, 6)
    moved = batch.to("meta")
    assert isinstance(moved, ImageList) and moved.tensors.is_meta and moved.image_sizes == batch.image_sizes


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([], "no images"),
        ([torch.zeros(3, 0, 5)], r"image 0.*\(3, 0, 5\)"),
        ([torch.zeros(3, 2, 2), torch.zeros(1, 2, 2)], "image 1 has 1 channels, image 0 has 3"),
        ([torch.zeros(2, 2)], r"\(2, 2\)"),
        (torch.zeros(2, 2), r"\(2, 2\)"),
    ],
)
def test_bad_pictures_are_named(pictures, message):
    with pytest.raises(ValueError, match=message):
        to_image_list(pictures)


def test_other_types_are_named():
    with pytest.raises(TypeError, match="from str"):
        to_image_list("picture.jpg")
    with pytest.raises(TypeError, match="image 0 is a int"):
        to_image_list([3])


def test_pickle_of_the_original_can_be_used():
    """It knows no names of pictures."""
    old = ImageList.__new__(ImageList)
    old.__dict__.update(tensors=torch.zeros(1, 3, 4, 4), image_sizes=[torch.Size([3, 4])])
    read = pickle.loads(pickle.dumps(old)).to(torch.float64)
    assert read.tensors.dtype == torch.float64 and read.names is None and read.image_sizes == [(3, 4)]
