"""Few-shot choices: what counts, what is warned of, and that a seed repeats them."""

import random
from collections import Counter

import pytest
from data_files import write_coco_toy

from maskrcnn_benchmark.data.datasets.coco import COCODataset
from maskrcnn_benchmark.data.datasets.coco_json import CategoryNumbering
from maskrcnn_benchmark.data.datasets.few_shot import choose_few_shot, select_instances

NUMBERING = CategoryNumbering([{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}])
BOXES = {1: {7: 3}, 2: {7: 1}, 3: {7: 1, 3: 2}, 4: {3: 1}, 5: {7: 2}}  # image id -> category id -> boxes


def annotations(boxes: dict[int, int]) -> list[dict]:
    return [{"category_id": category, "iscrowd": 0} for category, count in boxes.items() for _ in range(count)]


def choose(shots: int, rule: str, seed: int = 0):
    return choose_few_shot(
        list(BOXES), {i: annotations(boxes) for i, boxes in BOXES.items()}, NUMBERING, shots, seed, rule, "toy"
    )


def test_images_and_instances_count_differently():
    images, instances = choose(2, "images"), choose(2, "instances")
    assert images.image_ids == [1, 2, 3, 4] and images.pictures == {"cat": 3, "dog": 2}
    assert images.boxes == {"cat": 5, "dog": 3}
    assert instances.image_ids == [2, 3], "1 has three cats, and after 3 nothing is missing"
    assert instances.boxes == {"cat": 2, "dog": 2} and instances.rule == "instances"


def test_categories_of_one_name_are_counted_apart():
    numbering = CategoryNumbering([{"id": 7, "name": "cat"}, {"id": 3, "name": "cat"}])
    choice = choose_few_shot([1, 4], {i: annotations(BOXES[i]) for i in (1, 4)}, numbering, 1)
    assert choice.pictures == {"cat (id 7)": 1, "cat (id 3)": 1} and choice.boxes["cat (id 7)"] == 3


def test_instances_go_beyond_only_where_they_must():
    assert select_instances([1, 2], {1: {7: 3}, 2: {7: 1}}, {7: 1}, 2) == [2, 1]
    assert select_instances([1], {1: {7: 3, 3: 1}}, {7: 1, 3: 2}, 1) == [1]


@pytest.mark.parametrize("seed", [0, 3, 30])
def test_every_category_has_its_instances(seed):
    draw = random.Random(seed)
    boxes = {i: Counter(draw.choices([1, 2, 3], k=draw.randint(1, 6))) for i in range(60)}
    chosen = select_instances(list(boxes), boxes, {1: 1, 2: 2, 3: 3}, 5, seed)
    assert len(set(chosen)) == len(chosen)
    total = sum((boxes[i] for i in chosen), Counter())
    assert all(5 <= total[category] <= 10 for category in (1, 2, 3)), total
    assert chosen == select_instances(list(boxes), boxes, {1: 1, 2: 2, 3: 3}, 5, seed)


@pytest.mark.parametrize(("rule", "what"), [("images", "pictures"), ("instances", "boxes")])
def test_too_few_are_all_used_with_a_warning(rule, what, caplog):
    assert sorted(choose(100, rule).image_ids) == [1, 2, 3, 4, 5]
    assert f"fewer {what} than the 100 shots" in caplog.text
    counts = "'cat' 4, 'dog' 2" if rule == "images" else "'cat' 7, 'dog' 3"
    assert counts in caplog.text


def test_unknown_rule_and_unlisted_category():
    with pytest.raises(ValueError, match="FEW_SHOT_RULE='boxes': known are images, instances"):
        choose(1, "boxes")
    with pytest.raises(ValueError, match="image 1 has category 9, which is not in the list of 1"):
        select_instances([1], {1: {9: 1}}, {7: 1}, 1)


def test_dataset_keeps_what_was_chosen(tmp_path, caplog):
    data = COCODataset(write_coco_toy(tmp_path), tmp_path, True, few_shot=2, few_shot_rule="instances", shuffle_seed=3)
    assert data.ids == data.few_shot.image_ids and data.few_shot.seed == 3
    assert data.few_shot.boxes == {"cat": 1, "dog": 1, "absent, thing": 0}, "a crowd is no instance"
    assert "'absent, thing' 0" in caplog.text
    assert COCODataset(write_coco_toy(tmp_path), tmp_path, True).few_shot is None
