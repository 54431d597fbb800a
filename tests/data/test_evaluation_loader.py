"""Loaders of test sets: pictures as bytes, and batches of any number of processes."""

import pytest
import torch
from data_files import write_coco_toy
from evaluation_data import write_flickr

from maskrcnn_benchmark.config import CfgNode, default_config
from maskrcnn_benchmark.data import evaluation_loader
from maskrcnn_benchmark.data.build import make_data_loader
from maskrcnn_benchmark.data.evaluation_loader import UploadingLoader, images_per_test_batch
from maskrcnn_benchmark.data.upload import ImageUpload, split_transforms


@pytest.fixture
def cfg(tmp_path, bert_vocabulary):
    node = default_config()
    node.MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE = bert_vocabulary
    annotations = write_coco_toy(tmp_path)
    node.DATASETS.REGISTER.toy = CfgNode({"type": "coco", "img_dir": str(tmp_path), "ann_file": str(annotations)})
    node.merge_from_list(["DATASETS.TEST", ("toy",), "DATALOADER.NUM_WORKERS", 0, "TEST.IMS_PER_BATCH", 2])
    node.merge_from_list(["INPUT.MIN_SIZE_TEST", 100, "DATALOADER.SIZE_DIVISIBILITY", 32])
    node.merge_from_list(["INPUT.PIXEL_MEAN", [103.53, 116.28, 123.675], "INPUT.PIXEL_STD", [57.375, 57.12, 58.395]])
    return node


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_as_bytes_are_the_same_pictures(cfg, monkeypatch, workers):
    cfg.DATALOADER.NUM_WORKERS = workers
    (plain,) = make_data_loader(cfg, is_train=False)

    def upload_to_the_cpu(cfg, dataset, size_divisible):
        dataset.transforms, normalize = split_transforms(dataset.transforms)
        return ImageUpload(normalize, torch.device("cpu"), size_divisible)

    monkeypatch.setattr(evaluation_loader, "_upload", upload_to_the_cpu)
    assert not isinstance(make_data_loader(cfg, is_train=False)[0], UploadingLoader), "only where it is asked for"
    (uploading,) = make_data_loader(cfg, is_train=False, for_evaluation=True)
    assert isinstance(uploading, UploadingLoader) and len(uploading) == len(plain) == 2
    for (ours, targets, indices), (theirs, other_targets, other_indices, *_) in zip(uploading, plain, strict=True):
        assert indices == other_indices and ours.image_sizes == theirs.image_sizes
        torch.testing.assert_close(ours.tensors, theirs.tensors, atol=1e-5, rtol=1e-5)
        assert theirs.tensors.shape[-2:] == (128, 128) and (theirs.tensors[..., 100:, :] == 0).all()
        for target, other in zip(targets, other_targets, strict=True):
            assert torch.equal(target.bbox, other.bbox) and target.size == other.size
    images, targets, indices = uploading.collate_fn([uploading.dataset[1]])
    assert images.tensors.shape[0] == len(targets) == 1 and indices == (1,)


def test_share_of_a_batch():
    assert [images_per_test_batch(*pair) for pair in ((8, 1), (8, 4), (1, 8), (3, 2))] == [8, 2, 1, 1]
    with pytest.raises(ValueError, match="TEST.IMS_PER_BATCH=0"):
        images_per_test_batch(0, 1)


def test_orientations_share_batches(cfg):
    cfg.TEST.IMS_PER_BATCH = 3
    (loader,) = make_data_loader(cfg, is_train=False)
    dataset = loader.dataset
    dataset.coco.imgs[5].update(width=80, height=100)
    (loader,) = [evaluation_loader.make_evaluation_loader(cfg, dataset, 1, 0, {"num_workers": 0})]
    assert list(loader.batch_sampler) == [[0, 2], [1]], "wide ones, then the high one"


def test_sentences_come_one_by_one_or_with_their_picture(cfg, tmp_path, monkeypatch):
    """In order for those who build a loader; a picture at a time for the evaluation."""
    write_flickr(tmp_path)
    monkeypatch.setenv("DATASET", str(tmp_path))
    cfg.DATASETS.TEST, cfg.TEST.IMS_PER_BATCH = ("flickr30k_test",), 1
    (in_order,), (together,) = (
        make_data_loader(cfg, is_train=False, for_evaluation=choice) for choice in (False, True)
    )
    assert list(in_order.batch_sampler) == [[0], [1], [2], [3], [4], [5]]
    assert list(together.batch_sampler) == [[0, 1], [2, 3], [4, 5]]
