"""Annotations of a user: what is corrected, what is refused, and in which words."""

import json

import pytest
from tuning_data import SIZE, change, write_split

from maskrcnn_benchmark.data.own_annotations import as_validation, checked_annotations, classes_without_boxes


@pytest.fixture
def data(tmp_path):
    return write_split(tmp_path / "own photos", "photos", 6)


def read(data, images=None):
    return checked_annotations(data, images or data.with_suffix(""))


def test_good_annotations_stay_as_they_are(data):
    assert read(data) == json.loads(data.read_text())


def test_other_order_of_categories(data):
    """Labels follow the order of ids, whatever the order of the list."""
    wanted = read(data)
    assert read(change(data, categories=lambda c: c.reverse())) == wanted


def test_an_entry_for_the_background(data, caplog):
    """A category 0 without a box, as Roboflow writes it for the group of all classes, is no class."""
    wanted = read(data)
    assert read(change(data, categories=lambda c: c.insert(0, {"id": 0, "name": "things"}))) == wanted
    assert "category 'things' has no box and is taken for the background" in caplog.text


def test_category_zero_with_boxes_is_a_class(data):
    change(
        data,
        categories=lambda c: c[0].update(id=0),
        annotations=lambda a: [one.update(category_id=0) for one in a],
    )
    assert [category["name"] for category in read(data)["categories"]] == ["cup", "dog"]


def test_what_annotations_may_lack(data, caplog):
    """Sizes come from the pictures, areas from the boxes, and ids are numbers from 1 on, as the evaluation needs."""
    wanted = read(data)
    change(
        data,
        images=lambda c: [(one.pop("width"), one.update(height="64")) for one in c],
        annotations=lambda a: [(one.pop("id"), one.pop("area"), one.pop("iscrowd")) for one in a],
    )
    assert read(data) == wanted and "6 images have no size" in caplog.text
    assert read(change(data, annotations=lambda a: [one.update(id=0) for one in a])) == wanted


def test_blanks_around_a_name(data):
    wanted = read(data)
    assert read(change(data, categories=lambda c: c[0].update(name=" cup\n"))) == wanted


def test_a_byte_order_mark(data):
    wanted = read(data)
    data.write_text(data.read_text(), encoding="utf-8-sig")
    assert read(data) == wanted


def test_boxes_with_nothing_inside_the_picture(data, caplog):
    for box in ([30, 40, -5, 10], [10, 10, 0, 4], [5000, 3, 10, 10], [-30, 3, 10, 10]):
        caplog.clear()
        change(data, annotations=lambda a, box=box: a[1].update(bbox=box))
        found = read(data)["annotations"]
        assert len(found) == len(json.loads(data.read_text())["annotations"]) - 1
        assert [one["id"] for one in found] == list(range(1, len(found) + 1))
        assert f"1 boxes have nothing inside their pictures and are left out: annotation 2 of image 2 has {box}" in (
            caplog.text
        )


BAD = {
    "an id in a text": ({"categories": lambda c: c[0].update(id="1")}, r"category number 0 \('cup'\) has the id '1'"),
    "no id of a category": ({"categories": lambda c: c[0].pop("id")}, "has the id None, not a whole number"),
    "an id twice": ({"categories": lambda c: c[1].update(id=1)}, "two categories have the id 1"),
    "categories that are texts": ({"categories": lambda c: c.append("bird")}, "have 'bird' in the list 'categories'"),
    "a record of nothing": ({"annotations": lambda a: a.append(None)}, "have None in the list 'annotations'"),
    "a huge id of a category": (
        {"categories": lambda c: c[0].update(id=2**63)},
        r"category number 0 \('cup'\) has the id 9223372036854775808, which takes more than 64 bits",
    ),
    "a huge id of an image": ({"images": lambda c: c[0].update(id=10**30)}, "image number 0 has the id 1000000"),
    "a huge number": ({"annotations": lambda a: a[0].update(bbox=[10**400, 2, 3, 4])}, "not four finite numbers"),
    "an empty name": ({"categories": lambda c: c[0].update(name="")}, "category 1 is called ''"),
    "no image": ({"annotations": lambda a: a[0].update(image_id="1")}, "of image '1' belongs to no image"),
    "no image id": ({"annotations": lambda a: a[0].pop("image_id")}, "of image None belongs to no image"),
    "no category": (
        {"annotations": lambda a: a[0].update(category_id=77)},
        "annotation 1 .* the category_id 77, which",
    ),
    "a list as category": ({"annotations": lambda a: a[0].update(category_id=[1])}, r"has the category_id \[1\]"),
    "texts in boxes": ({"annotations": lambda a: a[0].update(bbox=["1", "2", "3", "4"])}, r"the box \['1', '2', "),
    "no box": ({"annotations": lambda a: a[2].pop("bbox")}, "annotation 3 .*has the box None, not four finite numbers"),
    "infinity": ({"annotations": lambda a: a[0].update(bbox=[1, 2, float("inf"), 4])}, "not four finite numbers"),
    "truth values": ({"annotations": lambda a: a[0].update(bbox=[True] * 4)}, "not four finite numbers"),
    "shares": ({"annotations": lambda a: [o.update(bbox=[0.1, 0.2, 0.3, 0.4]) for o in a]}, "no box goes beyond one"),
    "crowd in a text": ({"annotations": lambda a: a[0].update(iscrowd="0")}, "has iscrowd '0', neither 0 nor 1"),
    "crowds alone": ({"annotations": lambda a: [o.update(iscrowd=1) for o in a]}, "no box .* that is not a crowd"),
    "an image twice": ({"images": lambda c: c[1].update(id=1)}, "two images have the id 1"),
    "numbers and texts": ({"images": lambda c: c.append({**c[0], "id": "x"})}, "some images have a number as their id"),
    "no file name": ({"images": lambda c: c[0].pop("file_name")}, "image 1 has the file_name None"),
    "another size": ({"images": lambda c: c[0].update(width=64, height=96)}, "1.png is 96x64, not 64x96"),
    "no picture": ({"images": lambda c: c[0].update(file_name="a.png")}, "1 of 6 pictures are missing: .*a.png"),
    "an empty list": ({"images": lambda c: c.clear()}, "have an empty list 'images'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(data, case):
    changes, message = BAD[case]
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        read(change(data, **changes))
    assert str(data) in str(error.value) and "\n" not in str(error.value)


def test_pictures_of_no_bytes_and_folders(data):
    picture = data.with_suffix("") / "2.png"
    picture.write_bytes(b"")
    with pytest.raises(ValueError, match="2.png: it is of no known picture format"):
        read(data)
    picture.unlink()
    picture.mkdir()
    with pytest.raises(ValueError, match="cannot read image .*2.png"):
        read(data)
    with pytest.raises(FileNotFoundError, match="the folder of pictures .* is not there"):
        read(data, data)


@pytest.mark.parametrize("text", ["", "{", "[" * 100000, "\udcff"])
def test_no_json(data, text):
    data.write_text(text, errors="surrogateescape")
    with pytest.raises(ValueError, match="are no JSON"):
        read(data)


def test_validation_with_categories_of_its_own(data, tmp_path):
    """Other ids, another order and fewer classes: the classes of training, in its order and with its ids."""
    train = read(data)
    path = write_split(tmp_path / "val", "val", 4)
    wanted = read(path)["annotations"]
    change(
        path,
        categories=lambda c: (c[0].update(id=9, name="CUP"), c[1].update(id=4)),
        annotations=lambda a: [one.update(category_id={1: 9, 2: 4}[one["category_id"]]) for one in a],
    )
    found = as_validation(read(path), train, path)
    assert found["categories"] == train["categories"] and found["annotations"] == wanted
    box = {"id": 1, "image_id": 1, "category_id": 9, "bbox": [1, 1, *SIZE]}
    change(path, annotations=lambda a: a.__setitem__(slice(None), [box]), categories=lambda c: c.pop())
    few = as_validation(read(path), train, path)
    assert few["categories"] == train["categories"] and classes_without_boxes(few) == ["dog"]
