"""Items depend on seed and iteration alone, and batches survive the transport between processes."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset

from maskrcnn_benchmark.data.collate_batch import BatchCollator
from maskrcnn_benchmark.data.datasets.image_file import BrokenImage, MissingImage
from maskrcnn_benchmark.data.reproducible import (
    SampleKey,
    SeededBatchSampler,
    SeededDataset,
    describe_item,
    sample_seed,
)
from maskrcnn_benchmark.data.samplers import DistributedSampler, IterationBasedBatchSampler
from maskrcnn_benchmark.data.transport import PackingCollator, UnpackingLoader, unpack_batch
from maskrcnn_benchmark.structures.bounding_box import BoxList


class RandomItems(Dataset):
    """Items that draw from all three generators."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        boxes = BoxList([[random.random(), 0.0, 5.0, 5.0]] * (index % 3), (8, 8))
        boxes.add_field("labels", torch.full((len(boxes),), index))
        boxes.add_field("positive_map", torch.rand(len(boxes), 256))
        boxes.add_field("caption", f"number {index}")
        boxes.add_field("tokens_positive", [[(0, 6)]] * len(boxes))
        return torch.rand(3, 8, 8) + float(np.random.rand()), boxes, index


def loader(workers=0, start_iter=0, seed=1, rank=0) -> UnpackingLoader:
    batches = [[0, 3], [4, 1], [5, 2], [3, 3]]
    return UnpackingLoader(
        DataLoader(
            SeededDataset(RandomItems()),
            batch_sampler=SeededBatchSampler(batches, seed, rank, start_iter),
            collate_fn=PackingCollator(BatchCollator(4)),
            num_workers=workers,
            generator=torch.Generator(),
        )
    )


def flatten(batch) -> list[torch.Tensor]:
    images, targets, _, positive_map, *_ = batch
    return [images.tensors, positive_map, *[target.bbox for target in targets]]


def assert_same(one, other):
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        assert first[2] == second[2]
        for a, b in zip(flatten(first), flatten(second), strict=True):
            assert torch.equal(a, b)


def test_number_of_workers_does_not_matter():
    assert_same(list(loader(0)), list(loader(2)))


def test_start_in_the_middle_continues_the_run():
    assert_same(list(loader())[2:], list(loader(start_iter=2)))
    assert len(loader(start_iter=2)) == 4


def test_batches_are_those_of_indices():
    """For whoever looks at a loader's sampler, as of the original's."""
    assert list(loader().batch_sampler) == [[0, 3], [4, 1], [5, 2], [3, 3]]


def test_order_drawn_anew_for_every_pass_continues_too():
    """As with DATALOADER.USE_RANDOM_SEED: the seed of a pass is drawn, and another run draws the same one."""

    def order(start_iter: int = 0, seed: int = 1) -> list[int]:
        shuffled = DistributedSampler(range(6), 1, 0, use_random=True)
        run = IterationBasedBatchSampler(BatchSampler(shuffled, 2, drop_last=True), 12)
        chosen = []
        for batch in SeededBatchSampler(run, seed, 0, start_iter):
            chosen.append(list(map(int, batch)))
            np.random.rand()  # what the rest of the program draws
        return chosen

    whole = order()
    assert len(whole) == 12 and len({str(whole[i : i + 3]) for i in (0, 3, 6, 9)}) > 1
    assert order(start_iter=5) == whole[5:] and order(seed=2) != whole
    np.random.seed(7)
    expected = np.random.rand(12)
    np.random.seed(7)
    order()
    assert np.random.rand() not in expected, "twelve numbers were drawn, all by this test"
    assert list(order(start_iter=12)) == []


def test_seed_rank_iteration_and_slot_change_the_items():
    seeds = {
        sample_seed(*numbers) for numbers in [(1, 0, 0, 0), (2, 0, 0, 0), (1, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, 1)]
    }
    assert len(seeds) == 5 and all(0 <= seed < 2**63 for seed in seeds)
    last = list(loader())[3][0].tensors
    assert not torch.equal(last[0], last[1]), "the same picture twice in a batch is augmented twice"


def test_loading_leaves_the_random_state_alone():
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    list(loader())
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


def test_transport_keeps_everything():
    collator = BatchCollator(4)
    items = [RandomItems()[i] for i in (1, 2, 3)]
    plain, packed = collator(items), unpack_batch(PackingCollator(collator)(items))
    assert packed[0].image_sizes == plain[0].image_sizes and packed[2] == plain[2]
    assert packed[4] is None and packed[5] is None
    for a, b in zip(plain[1], packed[1], strict=True):
        assert (a.size, a.mode, a.fields()) == (b.size, b.mode, b.fields())
        assert b.get_field("caption") == a.get_field("caption")
        assert b.get_field("tokens_positive") == a.get_field("tokens_positive")
        assert torch.equal(a.get_field("labels"), b.get_field("labels"))
    packed[1][0].bbox.add_(1)  # unpacked tensors can be written to


def test_pictures_without_boxes_can_be_saved(tmp_path):
    """As a batch is whose loss is not finite: boxes and labels have different types, and no elements."""
    _, targets, *_ = unpack_batch(PackingCollator(BatchCollator())([RandomItems()[index] for index in (0, 3)]))
    torch.save([(target.bbox, target.get_field("labels")) for target in targets], tmp_path / "saved.pth")
    saved = torch.load(tmp_path / "saved.pth")
    assert [(boxes.shape, labels.dtype) for boxes, labels in saved] == [((0, 4), torch.int64)] * 2


class BrokenItems(RandomItems):
    """Some pictures cannot be read."""

    def __getitem__(self, index):
        if index in (1, 2):
            raise BrokenImage(f"cannot read image {index}.png: damaged")
        return super().__getitem__(index)

    def get_img_info(self, index):
        return {"file_name": f"{index}.png", "id": 10 * index, "height": 8, "width": 8}


def broken_loader(on_error: str, workers: int = 0) -> UnpackingLoader:
    return UnpackingLoader(
        DataLoader(
            SeededDataset(BrokenItems(), on_error),
            batch_sampler=SeededBatchSampler([[0, 1], [2, 4]] * 3),
            collate_fn=PackingCollator(BatchCollator(4)),
            num_workers=workers,
        )
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_pictures_are_skipped_and_reported_once(workers, caplog):
    batches = list(broken_loader("skip", workers))
    assert [batch[2] for batch in batches] == [(0, 3), (3, 4)] * 3
    reports = [record.getMessage() for record in caplog.records]
    assert [report.split(";")[0] for report in reports] == [f"cannot read image {i}.png: damaged" for i in (1, 2)]
    assert [target.get_field("dataset_index") for target in batches[0][1]] == [0, 3]


def test_broken_pictures_stop_the_run_unless_asked():
    with pytest.raises(BrokenImage, match=r"cannot read image 1\.png"):
        list(broken_loader("raise"))
    with pytest.raises(ValueError, match=r"DATALOADER\.ON_ERROR='ignore': known are raise, skip"):
        broken_loader("ignore")


@pytest.mark.parametrize("error", [KeyError("category_id"), TypeError("no number"), AttributeError("no text")])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_annotations_that_lack_something_are_named(monkeypatch, error, on_error):
    monkeypatch.setattr(BrokenItems, "__getitem__", lambda self, index: (_ for _ in ()).throw(error))
    with pytest.raises(ValueError, match=rf"item 3 file_name 3\.png id 30: malformed .*{type(error).__name__}: .*\w+"):
        SeededDataset(BrokenItems(), on_error)[SampleKey(3, 1)]


def test_skipping_gives_up_where_nothing_can_be_read(monkeypatch):
    monkeypatch.setattr(BrokenItems, "__len__", lambda self: 2)
    monkeypatch.setattr(RandomItems, "__getitem__", lambda self, index: (_ for _ in ()).throw(MissingImage("gone")))
    with pytest.raises((BrokenImage, MissingImage)):
        SeededDataset(BrokenItems(), "skip")[SampleKey(0, 1)]


def test_pictures_are_described():
    assert describe_item(SeededDataset(BrokenItems()), 3) == "item 3 file_name 3.png id 30"
    assert describe_item(BrokenItems(), 3) == "item 3 file_name 3.png id 30"
    assert describe_item(RandomItems(), 3) == describe_item(None, 3) == "item 3"
