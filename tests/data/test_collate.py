"""The batch that the collator makes of dataset items."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from maskrcnn_benchmark.data.collate_batch import (
    BatchCollator,
    BBoxAugCollator,
    batch_images,
    concatenate_positive_maps,
)
from maskrcnn_benchmark.data.transport import PackingCollator, UnpackingLoader
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import to_image_list


def target(num_boxes: int, size: tuple[int, int], **fields) -> BoxList:
    boxes = BoxList(torch.zeros(num_boxes, 4), size)
    for name, value in fields.items():
        boxes.add_field(name, value)
    return boxes


def test_batch_of_two_sizes():
    positive = [torch.zeros(2, 256), torch.zeros(1, 256)]
    positive[0][0, 1] = positive[0][1, 2:4] = positive[1][0, 5] = 0.4999998
    batch = [
        (torch.ones(3, 33, 50), target(2, (50, 33), positive_map=positive[0], greenlight_map=torch.ones(256)), 8),
        (torch.ones(3, 20, 70), target(1, (70, 20), positive_map=positive[1], greenlight_map=torch.zeros(256)), 3),
    ]
    images, targets, indices, positive_map, positive_map_eval, greenlight_map = BatchCollator(32)(batch)
    assert images.tensors.shape == (2, 3, 64, 96)
    assert images.image_sizes == [(33, 50), (20, 70)]
    assert images.tensors[0, :, 33:].abs().sum() == 0 and images.tensors[1, :, :, 70:].abs().sum() == 0
    assert [len(boxes) for boxes in targets] == [2, 1] and indices == (8, 3)
    assert positive_map.shape == (3, 256)
    assert positive_map.nonzero().tolist() == [[0, 1], [1, 2], [1, 3], [2, 5]]
    assert set(positive_map.unique().tolist()) == {0.0, 1.0}
    assert positive_map_eval is None
    assert torch.equal(greenlight_map, torch.stack([torch.ones(256), torch.zeros(256)]))


def test_targets_without_boxes_keep_the_rows_of_the_others():
    merged = concatenate_positive_maps([torch.zeros(0, 256), torch.full((1, 256), 0.25), torch.zeros(0, 256)])
    assert torch.equal(merged, torch.ones(1, 256))


def test_dict_targets_give_five_entries():
    batch = BatchCollator(32)([(torch.ones(3, 33, 50), {"boxes": 1}, 0)])
    assert len(batch) == 5 and batch[3] is None and batch[4] is None


def test_plain_targets_have_no_maps():
    assert BatchCollator()([(torch.ones(3, 4, 4), target(1, (4, 4)), 0)])[3:] == (None, None, None)


def test_mixed_batch_is_an_error():
    batch = [
        (torch.ones(3, 4, 4), target(1, (4, 4), positive_map=torch.zeros(1, 256)), 0),
        (torch.ones(3, 4, 4), target(1, (4, 4)), 1),
    ]
    with pytest.raises(ValueError, match="1 of 2 targets of a batch have no positive_map"):
        BatchCollator()(batch)


def test_augmentation_collator_does_not_batch():
    images, _, indices, *rest = BBoxAugCollator()([("a", None, 1), ("b", None, 2)])
    assert images == ("a", "b") and indices == (1, 2) and rest == [None, None]


@pytest.mark.parametrize("divisible", [0, 32])
def test_batch_equals_that_of_to_image_list(divisible):
    images = [torch.rand(3, 33, 50), torch.rand(3, 64, 64)]
    ours, theirs = batch_images(images, divisible), to_image_list(images, divisible)
    assert torch.equal(ours.tensors, theirs.tensors) and ours.image_sizes == theirs.image_sizes


class Pictures(Dataset):
    sizes = ((33, 50), (20, 70))

    def __len__(self):
        return 2

    def __getitem__(self, index):
        torch.manual_seed(index)
        return torch.rand(3, *self.sizes[index])


@pytest.mark.parametrize("workers", [0, 1])
def test_batch_of_a_loader_process_is_shared_and_padded_with_zeros(workers):
    loader = DataLoader(
        Pictures(), batch_size=2, num_workers=workers, collate_fn=lambda items: batch_images(items, 32).tensors
    )
    (batch,) = list(loader)
    assert torch.equal(batch, to_image_list([Pictures()[0], Pictures()[1]], 32).tensors)
    assert batch.is_shared() == bool(workers)


def test_the_collator_of_a_training_loader_makes_batches():
    """Other code calls it for items of its own choice, and reads its divisor."""
    loader = UnpackingLoader(DataLoader(Pictures(), collate_fn=PackingCollator(BatchCollator(32))))
    items = [(torch.zeros(3, 33, 50), BoxList([[0, 0, 9, 9]], (50, 33)), index) for index in (4, 7)]
    images, targets, indices, *maps = loader.collate_fn(items)
    assert images.tensors.shape == (2, 3, 64, 64) and len(targets) == 2 and indices == (4, 7) and maps == [None] * 3
    assert loader.collate_fn.size_divisible == 32
