"""Annotation files that cannot be meant: they are refused before any picture is read."""

import json

import pytest
from data_files import write_coco_toy

from maskrcnn_benchmark.data.datasets.coco_json import CategoryNumbering, check_records, load_coco_json
from maskrcnn_benchmark.evaluation.coco import CocoEvaluator


def changed(folder, section, entries):
    """The toy file, whose first record of a section has other entries, or whose section is something else."""
    path = write_coco_toy(folder)
    content = json.loads(path.read_text())
    if isinstance(entries, dict):
        content[section][0] |= entries
    else:
        content[section] = entries
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("section", "entries", "message"),
    [
        ("annotations", None, "toy.json is not in COCO format: .* must be lists of objects"),
        ("images", [5], "toy.json is not in COCO format: .* must be lists of objects"),
        ("categories", ["dog"], "toy.json is not in COCO format: .* must be lists of objects"),
        ("images", {"id": "five"}, "toy.json: image ids must all be numbers or all be texts, not 'five', 2, 9"),
    ],
)
def test_files_that_are_not_in_the_format(tmp_path, section, entries, message):
    with pytest.raises(ValueError, match=message):
        load_coco_json(changed(tmp_path, section, entries))


@pytest.mark.parametrize(
    ("section", "entries", "message"),
    [
        ("annotations", {"area": "900"}, "annotation 1 has the area '900', not a number"),
        ("categories", {"id": "cat"}, "category ids must all be numbers or all be texts, not 'cat', 3, 11"),
        ("images", {"file_name": None}, "image 5 has the file_name None, not a text"),
    ],
)
def test_records_that_only_the_end_of_an_evaluation_would_stumble_over(tmp_path, section, entries, message):
    coco = load_coco_json(changed(tmp_path, section, entries))
    with pytest.raises(ValueError, match=message):
        check_records(coco, CategoryNumbering(coco.dataset["categories"]))


def test_ids_of_annotations_that_come_twice(tmp_path, caplog):
    coco = load_coco_json(changed(tmp_path, "annotations", {"id": 3}))
    check_records(coco, CategoryNumbering(coco.dataset["categories"]))
    assert "1 annotation ids come more than once" in caplog.text and ": 3; number the annotations anew" in caplog.text


def test_null_counts_as_missing(tmp_path):
    """For the area of an annotation, and for whether it is a crowd."""
    coco = load_coco_json(changed(tmp_path, "annotations", {"area": None, "iscrowd": None}))
    check_records(coco, CategoryNumbering(coco.dataset["categories"]))
    CocoEvaluator(coco, {1: 7})
    assert coco.anns[1]["area"] == 900 and coco.anns[1]["iscrowd"] == 0
