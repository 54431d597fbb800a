"""Detection data in TSV files: boxes and labels, captions of sampled classes, loaders."""

import json
import random

import numpy as np
import pytest
import torch
from tsv_files import write_detection_tsv, write_tsv

from maskrcnn_benchmark.data.collate_batch import BatchCollator
from maskrcnn_benchmark.data.datasets.od_tsv import CocoDetectionTSV, ODTSVDataset
from maskrcnn_benchmark.data.transforms import Compose, RandomHorizontalFlip, Resize, ToTensor
from maskrcnn_benchmark.text.tokenizer import build_tokenizer


@pytest.fixture
def tokenizer(bert_vocabulary):
    return build_tokenizer(bert_vocabulary)


def grounded(folder, tokenizer, **options) -> CocoDetectionTSV:
    options = {"control_probabilities": (0, 0, 1, 0), "separation_tokens": ". ", "tokenizer": tokenizer, **options}
    return CocoDetectionTSV("toy", write_detection_tsv(folder), **options)


def test_closed_set_items(tmp_path):
    data = ODTSVDataset(write_detection_tsv(tmp_path), extra_fields=["class"])
    image, target, index, scale = data[0]
    assert image.size == (100, 80) and (index, scale) == (0, 1.0) and len(data) == 3
    assert target.bbox.tolist() == [[10, 10, 39, 39], [20, 20, 59, 59]] and target.mode == "xyxy"
    assert target.get_field("labels").tolist() == [1, 2]
    clamped = data[1][1]
    assert clamped.bbox.tolist() == [[60, 50, 99, 79], [99, 10, 99, 20]], "clamped and kept"
    assert len(data[2][1]) == 0 and data[2][1].get_field("labels").dtype == torch.int64
    assert data.categories() == {1: "cat", 2: "hot_dog", 3: "bird"} and data.ind_to_class[0] == "__background__"
    assert data.get_img_info(1) == {"height": 80, "width": 100, "key": "8"}


def test_closed_set_items_say_how_their_picture_was_scaled(tmp_path):
    path = write_detection_tsv(tmp_path)
    data = ODTSVDataset(path, ("class",), Compose([Resize(160, 1333), RandomHorizontalFlip(0.0), ToTensor()]))
    image, target, index, scale = data[1]
    assert image.shape == (3, 160, 200) and target.size == (200, 160) and (index, scale) == (1, 2.0)
    images, targets, indices, *_ = BatchCollator(32)([data[0], data[1]])
    assert images.tensors.shape == (2, 3, 160, 224) and len(targets) == 2 and indices == (0, 1)
    assert ODTSVDataset(path, ("class",), Resize(40, 1333))[1][3] == 0.5


def test_pictures_alone(tmp_path):
    path = write_detection_tsv(tmp_path)
    path.write_text("img: images.tsv\n")
    assert len(ODTSVDataset(path, is_load_label=False)[1][1]) == 0
    with pytest.raises(ValueError, match="labelmap"):
        ODTSVDataset(path)


def test_mistakes_are_named(tmp_path, tokenizer):
    path = write_detection_tsv(tmp_path)
    with pytest.raises(ValueError, match="'mask'"):
        ODTSVDataset(path, extra_fields=("class", "mask"))
    with pytest.raises(ValueError, match="toy: DATASETS.CONTROL_PROB is empty"):
        CocoDetectionTSV("toy", path, tokenizer=tokenizer)
    (tmp_path / "labels.json").write_text(json.dumps({"cat": 1}))
    with pytest.raises(ValueError, match="picture '7' .* no class 'hot_dog'"):
        ODTSVDataset(path)[0]


@pytest.mark.parametrize("rect", [[10, 10, 39], [10, 10, "39", 39], None, 5])
def test_boxes_that_are_none_are_named(tmp_path, rect):
    path = write_detection_tsv(tmp_path)
    write_tsv(tmp_path / "raw_label.tsv", [(key, json.dumps([{"class": "cat", "rect": rect}])) for key in "789"])
    with pytest.raises(ValueError, match=r"picture '8' of .*data\.yaml: .* is no box of four numbers"):
        ODTSVDataset(path)[1]


@pytest.mark.parametrize("content", ["[1, 2]", "{", '{"cat": "one"}', '{"cat": null}'])
def test_label_maps_that_are_none_are_named(tmp_path, content):
    path = write_detection_tsv(tmp_path)
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(ValueError, match=r"label map .*labels\.json is no JSON object of numbers by class names: "):
        ODTSVDataset(path)


def test_files_of_other_rows_are_named(tmp_path):
    path = write_detection_tsv(tmp_path, hw="hw.tsv", linelist="lines.tsv")
    write_tsv(tmp_path / "hw.tsv", [("7", "80 100")])
    (tmp_path / "lines.tsv").write_text("0\n0\n")
    assert ODTSVDataset(path).get_img_info(1)["height"] == 80
    (tmp_path / "lines.tsv").write_text("0\n2\n")
    with pytest.raises(ValueError, match=r"hw\.tsv has the sizes of 1 rows, but .*data\.yaml has a row 2"):
        ODTSVDataset(path)
    (tmp_path / "lines.tsv").write_text("0\nseven\n")
    with pytest.raises(ValueError, match=r"lines\.tsv does not have one row number per line: "):
        ODTSVDataset(path)


def test_caption_names_the_classes_of_the_picture(tmp_path, tokenizer):
    target = grounded(tmp_path, tokenizer)[0][1]
    caption = target.get_field("caption")
    assert sorted(caption.split(". ")) == ["cat", "hot dog"]
    assert [caption[b:e] for ((b, e),) in target.get_field("tokens_positive")] == ["cat", "hot dog"]
    assert target.get_field("image_id").tolist() == [7] and target.get_field("original_od_label").tolist() == [1, 2]
    tokens = tokenizer(caption).tokens()
    of_rows = [[tokens[i] for i in row.nonzero().flatten()] for row in target.get_field("positive_map")]
    assert of_rows == [["cat"], ["hot", "dog"]]
    labels = target.get_field("positive_map_for_od_labels")
    assert [tokens[i] for i in (labels == 2).nonzero().flatten()] == ["hot", "dog"]
    assert int((labels == 1).sum()) == 1


def test_all_classes_in_order_need_no_control_probabilities(tmp_path, tokenizer):
    data = grounded(tmp_path, tokenizer, control_probabilities=(), disable_shuffle=True)
    target = data[0][1]
    assert target.get_field("caption") == "cat. hot dog. bird"
    assert target.get_field("positive_map").bool().nonzero().tolist() == [[0, 1], [1, 3], [1, 4]]


def test_negatives_are_sampled(tmp_path, tokenizer):
    data = grounded(tmp_path, tokenizer, random_sample_negative=85)
    random.seed(0)
    np.random.seed(0)
    captions = {data[2][1].get_field("caption") for _ in range(8)}
    names = {"bird", "cat", "hot dog", " background "}
    assert len(captions) > 1 and all(set(text.split(". ")) == names for text in captions)
    few = grounded(tmp_path, tokenizer, random_sample_negative=85, control_probabilities=(1, 0, 0, 0))
    assert all(len(few[2][1].get_field("caption").split(". ")) == 1 for _ in range(5))
    bounded = grounded(tmp_path, tokenizer, random_sample_negative=85, max_num_labels=2)
    assert set(bounded[0][1].get_field("caption").split(". ")) == {"cat", "hot dog"}


def test_boxes_without_an_inside_go(tmp_path, tokenizer):
    target = grounded(tmp_path, tokenizer)[1][1]
    assert target.bbox.tolist() == [[60, 50, 99, 79]] and target.get_field("caption") == "hot dog"


def test_image_id_is_the_index_for_other_keys(tmp_path, tokenizer):
    data = grounded(tmp_path, tokenizer)
    assert [data.image_id(i) for i in range(3)] == [7, 8, 9]
    data.tsv.key = ["7a", "²", ""].__getitem__
    assert [data.image_id(i) for i in range(3)] == [0, 1, 2]


def test_masked_language_modelling_can_be_kept_away(tmp_path, tokenizer):
    greenlight_map = grounded(tmp_path, tokenizer, no_mask_for_od=True)[0][1].get_field("greenlight_map")
    assert torch.equal(greenlight_map, torch.full((256,), -1.0))


def test_transforms_move_the_boxes_and_items_make_a_batch(tmp_path, tokenizer):
    transforms = Compose([Resize(160, 1333), RandomHorizontalFlip(1.0), ToTensor()])
    data = grounded(tmp_path, tokenizer, transforms=transforms)
    images, targets, indices, positive_map, _, _ = BatchCollator(32)([data[0], data[2]])
    assert images.tensors.shape == (2, 3, 160, 224) and indices == (0, 2) and positive_map.shape == (2, 256)
    assert targets[0].bbox[0].tolist() == [121, 20, 179, 78] and len(targets[1]) == 0
    assert targets[0].get_field("boxes").tolist() == [[10, 10, 39, 39], [20, 20, 59, 59]]
