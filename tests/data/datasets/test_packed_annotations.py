"""Annotations packed for training: the same data in a fraction of the memory."""

import json
import pickle
import random

import pytest
from data_files import write_coco_toy, write_grounding_toy

from maskrcnn_benchmark.data.datasets import COCODataset, CocoGrounding, FlickrDataset
from maskrcnn_benchmark.data.datasets.coco_json import load_coco_json
from maskrcnn_benchmark.data.datasets.packed_annotations import (
    PackedAnnotations,
    PackedRecords,
    RecordPacker,
    load_packed_coco_json,
)


def many(images: int, boxes: int) -> dict[int, list[dict]]:
    draw = random.Random(0)
    return {
        image: [
            {"id": image * boxes + k, "image_id": image, "category_id": draw.randrange(365), "iscrowd": 0,
             "bbox": [draw.random() * 500 for _ in range(4)], "area": draw.random() * 1e5}
            for k in range(boxes)
        ]
        for image in range(images)
    }  # fmt: skip


def packed_lists(annotations: dict, kind=PackedAnnotations):
    packer = RecordPacker()
    for key, records in annotations.items():
        for record in records:
            packer.add(key, record)
    return kind(packer)


def test_the_same_annotations_in_100_bytes_each():
    """10 million boxes, as many as Objects365 v1 has, take 1 GB."""
    annotations = many(200, 17)
    packed = packed_lists(annotations)
    assert dict(packed) == annotations and list(packed) == list(annotations) and len(packed) == 200
    assert packed.nbytes / (200 * 17) < 100
    assert pickle.loads(pickle.dumps(packed))[7] == annotations[7]


def test_annotations_in_any_order():
    annotations = many(20, 3)
    mixed = [(key, record) for key, records in annotations.items() for record in records]
    random.Random(1).shuffle(mixed)
    packer, expected = RecordPacker(), {}
    for key, record in mixed:
        packer.add(key, record)
        expected.setdefault(key, []).append(record)
    assert dict(PackedAnnotations(packer)) == expected


def test_unknown_images_have_no_annotations_and_changes_stay_outside():
    packed = packed_lists({"a": [{"bbox": [0, 0, 1, 1]}, {"tokens": [["x", None]], "seen": True}]})
    packed["a"].append({})
    assert packed["a"] == [{"bbox": [0, 0, 1, 1]}, {"tokens": [["x", None]], "seen": True}]
    assert packed["b"] == [] and "b" not in packed
    assert dict(packed_lists({})) == {}
    with pytest.raises(KeyError, match="b"):
        packed_lists({"a": [{}]}, PackedRecords)["b"]


@pytest.mark.parametrize("write", [write_coco_toy, write_grounding_toy])
def test_whole_files(tmp_path, write):
    path = write(tmp_path)
    plain, packed = load_coco_json(path), load_packed_coco_json(path)
    assert dict(packed.imgToAnns) == dict(plain.imgToAnns) and dict(packed.imgs) == plain.imgs
    with pytest.raises(KeyError, match="77"):
        packed.imgs[77]
    assert packed.dataset["annotations"] == [] and packed.dataset["categories"] == plain.dataset["categories"]
    assert packed.cats == plain.cats


def test_ids_by_which_something_gets_lost_are_told(tmp_path, caplog):
    path = write_coco_toy(tmp_path)
    content = json.loads(path.read_text())
    load_packed_coco_json(path)
    assert not caplog.messages
    number = content["images"][0]["id"]
    content["images"].append(content["images"][0])
    content["annotations"] += [{**content["annotations"][0], "image_id": 4711}] * 2
    path.write_text(json.dumps(content))
    assert number in load_packed_coco_json(path).imgs
    repeated, unlisted = caplog.messages
    assert f"toy.json: 1 image ids come more than once, and only the last image of each is used: '{number}'" in repeated
    assert "toy.json: 2 annotations are of images that are not in its list: '4711'" in unlisted


def test_outlines_are_left_out(tmp_path):
    path = write_coco_toy(tmp_path)
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = [[0.0] * 100]
    path.write_text(json.dumps(content))
    expected = {key: value for key, value in content["annotations"][0].items() if key != "segmentation"}
    assert load_packed_coco_json(path).imgToAnns[expected["image_id"]] == [expected]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [', "annotations.json is not valid JSON: Expecting value at character 12"),
        ("[]", "annotations.json is not in COCO format"),
        ('{"annotations": []}', "annotations.json is not in COCO format: it has no list of images"),
        ('{"images": [], "annotations": [{}]}', "an entry has no 'image_id'"),
    ],
)
def test_broken_files_are_named(tmp_path, text, message):
    path = tmp_path / "annotations.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_packed_coco_json(path)
    with pytest.raises(FileNotFoundError, match="missing.json"):
        load_packed_coco_json(tmp_path / "missing.json")


def test_only_training_packs(tmp_path):
    for dataset, write in ((CocoGrounding, write_coco_toy), (FlickrDataset, write_grounding_toy)):
        path = write(tmp_path)
        training, evaluation = (dataset(tmp_path, path, is_train=is_train) for is_train in (True, False))
        assert isinstance(training.coco.imgToAnns, PackedAnnotations) and evaluation.coco.anns
        assert training.ids == evaluation.ids
        (_, one, _), (_, other, _) = training[1], evaluation[1]
        assert one.bbox.tolist() == other.bbox.tolist() and len(one) > 0


def test_closed_sets_are_packed_in_training(tmp_path):
    path = write_coco_toy(tmp_path)
    training, evaluation = (COCODataset(path, tmp_path, True, is_train=is_train) for is_train in (True, False))
    assert isinstance(training.coco.imgToAnns, PackedAnnotations) and evaluation.coco.anns
    for (_, one, _), (_, other, _) in zip(training, evaluation, strict=True):
        assert one.bbox.tolist() == other.bbox.tolist()
        assert one.get_field("labels").tolist() == other.get_field("labels").tolist()
