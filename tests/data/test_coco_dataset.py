"""Closed-set data: order, numbering, crowds, few-shot selection, and broken input."""

import random

import pytest
import torch
from data_files import write_coco_toy

from maskrcnn_benchmark.data.datasets.coco import COCODataset
from maskrcnn_benchmark.data.datasets.coco_json import has_valid_annotation, select_few_shot


def dataset(folder, is_train=True, **options) -> COCODataset:
    return COCODataset(write_coco_toy(folder), folder, remove_images_without_annotations=is_train, **options)


def test_order_and_numbering(tmp_path):
    data = dataset(tmp_path)
    assert data.ids == [2, 5, 9]
    assert data.json_category_id_to_contiguous_id == {7: 1, 3: 2, 11: 3}
    assert data.contiguous_category_id_to_json_id == {1: 7, 2: 3, 3: 11}
    assert data.categories() == {1: "cat", 2: "dog", 3: "absent, thing"}
    assert data.get_img_info(1)["file_name"] == "5.png"
    assert data.id_to_img_map == {0: 2, 1: 5, 2: 9}


def test_item(tmp_path):
    image, target, index = dataset(tmp_path)[0]
    assert image.size == (100, 80) and index == 0
    assert target.bbox.tolist() == [[10, 10, 39, 39]] and target.get_field("labels").tolist() == [1]


def test_picture_of_a_crowd_has_no_boxes(tmp_path):
    _, target, _ = dataset(tmp_path)[2]
    assert len(target) == 0 and target.get_field("labels").dtype == torch.int64
    _, target, _ = dataset(tmp_path, ignore_crowd=False)[2]
    assert len(target) == 1


def test_few_shot_counts_pictures_with_sparse_category_ids(tmp_path):
    assert dataset(tmp_path, few_shot=1).ids == [2, 5]
    assert dataset(tmp_path, few_shot=2).ids == [2, 5, 9]


def test_few_shot_seed_shuffles_the_candidates():
    shown = {i: {1} for i in range(20)}
    first = select_few_shot(range(20), shown, [1], 3, shuffle_seed=3)
    assert first == select_few_shot(range(20), shown, [1], 3, shuffle_seed=3)
    assert first != select_few_shot(range(20), shown, [1], 3, shuffle_seed=30)
    assert select_few_shot(range(20), shown, [1], 3) == [0, 1, 2]


def literal_few_shot(image_ids, shown, largest_id, shots, seed):
    """The original's walk, image by image, with a counter for every id up to the largest."""
    counter = [shots] * (largest_id + 1)
    ids = list(image_ids)
    if seed:
        random.Random(seed).shuffle(ids)
    chosen = []
    for image_id in ids:
        is_wanted = False
        for category in shown[image_id]:
            if counter[category] > 0:
                is_wanted = True
        if is_wanted:
            chosen.append(image_id)
            for category in shown[image_id]:
                counter[category] -= 1
    return chosen


@pytest.mark.parametrize("shots", [1, 3, 5])
@pytest.mark.parametrize("seed", [0, 3, 30, 300])
def test_few_shot_is_the_literal_walk(shots, seed):
    draw = random.Random(shots)
    categories = [1, 4, 5, 17, 90]
    shown = {i: set(draw.sample(categories, draw.randint(1, 4))) for i in range(10, 70)}
    ours = select_few_shot(range(10, 70), shown, categories, shots, seed)
    assert ours == literal_few_shot(range(10, 70), shown, 90, shots, seed)
    assert all(sum(category in shown[i] for i in ours) >= shots for category in categories)


def test_few_shot_with_a_category_that_is_not_listed(tmp_path):
    with pytest.raises(ValueError, match="image 2 has category 7, which is not in the list of 1 categories"):
        dataset(tmp_path, override_category=[{"id": 3, "name": "hound"}], few_shot=1)


def test_override_category_renames_and_renumbers(tmp_path):
    data = dataset(tmp_path, override_category=[{"id": 3, "name": "hound"}, {"id": 7, "name": "tiger"}])
    assert data.categories() == {1: "hound", 2: "tiger"}
    assert data[0][1].get_field("labels").tolist() == [2]


def test_category_that_is_not_listed_is_named(tmp_path):
    with pytest.raises(ValueError, match="image 2 has category 7"):
        dataset(tmp_path, override_category=[{"id": 3, "name": "hound"}])[0]


def test_max_box_and_class_agnostic(tmp_path):
    torch.manual_seed(0)
    data = dataset(tmp_path, ignore_crowd=False, class_agnostic=True, max_box=1)
    assert len(data[2][1]) == 1 and data[1][1].get_field("labels").tolist() == [1]


@pytest.mark.parametrize(
    ("annotations", "valid"),
    [
        ([], False),
        ([{"bbox": [0, 0, 1, 50]}, {"bbox": [0, 0, 50, 1]}], False),
        ([{"bbox": [0, 0, 1, 50]}, {"bbox": [0, 0, 2, 2]}], True),
        ([{"bbox": [0, 0, 9, 9], "keypoints": [1, 1, 0, 2, 2, 1]}], False),
        ([{"bbox": [0, 0, 9, 9], "keypoints": [1, 1, 2, 2, 2, 1]}], True),
    ],
)
def test_has_valid_annotation(annotations, valid):
    assert has_valid_annotation(annotations, min_keypoints=2) is valid


def test_broken_picture_is_named(tmp_path):
    data = dataset(tmp_path)
    (tmp_path / "2.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(ValueError, match=r"cannot read image .*2\.png"):
        data[0]
    (tmp_path / "2.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"2\.png does not exist"):
        data[0]


def test_truncated_picture_is_named(tmp_path):
    data = dataset(tmp_path)
    content = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cannot read image .*2\.png"):
        data[0]


def test_a_byte_order_mark(tmp_path):
    wanted, path = dataset(tmp_path, is_train=False), write_coco_toy(tmp_path)
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert COCODataset(path, tmp_path, False).coco.dataset == wanted.coco.dataset


def test_annotation_file_that_is_not_json_is_named(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json is not valid JSON"):
        COCODataset(tmp_path / "bad.json", tmp_path, remove_images_without_annotations=False)
    (tmp_path / "latin.json").write_bytes(b'{"info": "\xe9"}')
    with pytest.raises(ValueError, match=r"latin\.json is not valid JSON"):
        COCODataset(tmp_path / "latin.json", tmp_path, remove_images_without_annotations=False)
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match=r"list\.json is not in COCO format"):
        COCODataset(tmp_path / "list.json", tmp_path, remove_images_without_annotations=False)


@pytest.mark.parametrize("box", [[1, 2, 30], [1, 2, 30, 40, 5], ["1", 2, 30, 40], [[1], 2, 30, 40]])
def test_box_that_is_none_is_named(tmp_path, box):
    data = dataset(tmp_path)
    data.coco.imgToAnns[2] = [{"id": 8, "image_id": 2, "category_id": 7, "iscrowd": 0, "bbox": box}]
    with pytest.raises(ValueError, match="annotation 8 of image 2: .* is no box of four numbers"):
        data[0]
