"""Annotations packed for training: the same data in a fraction of the memory."""

import pickle
import random

import pytest
from data_files import write_coco_toy, write_grounding_toy

from maskrcnn_benchmark.data.datasets import CocoGrounding, FlickrDataset
from maskrcnn_benchmark.data.datasets.coco_json import load_coco_json
from maskrcnn_benchmark.data.datasets.packed_annotations import PackedAnnotations, pack_annotations


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


def test_the_same_annotations_in_150_bytes_each():
    """10 million boxes, as many as Objects365 v1 has, take 1.5 GB."""
    annotations = many(200, 17)
    packed = PackedAnnotations(annotations)
    assert dict(packed) == annotations and list(packed) == list(annotations) and len(packed) == 200
    assert packed.nbytes / (200 * 17) < 150
    assert pickle.loads(pickle.dumps(packed))[7] == annotations[7]


def test_unknown_images_have_no_annotations_and_changes_stay_outside():
    packed = PackedAnnotations({"a": [{"bbox": [0, 0, 1, 1]}]})
    packed["a"].append({})
    assert packed["a"] == [{"bbox": [0, 0, 1, 1]}] and packed["b"] == [] and "b" not in packed
    assert dict(PackedAnnotations({})) == {}


@pytest.mark.parametrize("write", [write_coco_toy, write_grounding_toy])
def test_whole_files(tmp_path, write):
    path = write(tmp_path)
    plain, packed = load_coco_json(path), load_coco_json(path)
    pack_annotations(packed)
    assert dict(packed.imgToAnns) == dict(plain.imgToAnns) and dict(packed.imgs) == plain.imgs
    with pytest.raises(KeyError, match="77"):
        packed.imgs[77]
    assert packed.dataset["annotations"] == [] and packed.dataset["categories"] == plain.dataset["categories"]


def test_only_training_packs(tmp_path):
    for dataset, write in ((CocoGrounding, write_coco_toy), (FlickrDataset, write_grounding_toy)):
        path = write(tmp_path)
        training, evaluation = (dataset(tmp_path, path, is_train=is_train) for is_train in (True, False))
        assert isinstance(training.coco.imgToAnns, PackedAnnotations) and evaluation.coco.anns
        assert training.ids == evaluation.ids
        (_, one, _), (_, other, _) = training[1], evaluation[1]
        assert one.bbox.tolist() == other.bbox.tolist() and len(one) > 0
