"""Data that fine-tuning refuses, each with a line that says what is wrong and what to do."""

import json

import pytest
from data_files import write_coco_toy
from tiny_detector import make_text_folder

from maskrcnn_benchmark.data.datasets.coco import COCODataset
from maskrcnn_benchmark.data.datasets.coco_grounding import CocoGrounding
from maskrcnn_benchmark.data.datasets.concat import ConcatDataset, CopiedDataset
from maskrcnn_benchmark.data.datasets.modulated import ModulatedDataset
from maskrcnn_benchmark.data.tuning_checks import check_training_parts, check_validation, few_shot_choices, parts_of
from maskrcnn_benchmark.text.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return build_tokenizer(str(make_text_folder(tmp_path_factory.mktemp("text"))))


@pytest.fixture
def toy(tmp_path, tokenizer):
    """`toy(train, change)`: a dataset of the toy file after `change(content)`."""

    def make(is_train: bool, change=lambda content: None, **options):
        path = write_coco_toy(tmp_path)
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        if not is_train:
            return COCODataset(path, tmp_path, False)
        return CocoGrounding(tmp_path, path, tokenizer=tokenizer, is_train=True, separation_tokens=". ", **options)

    return make


def rename(name: str, category_id: int = 7):
    def change(content):
        next(entry for entry in content["categories"] if entry["id"] == category_id)["name"] = name

    return change


def box(value):
    def change(content):
        content["annotations"][0]["bbox"] = value

    return change


def train(dataset, tokenizer, max_tokens: int = 256) -> None:
    check_training_parts({"mine": dataset}, tokenizer, max_tokens)


def test_good_data_pass(toy, tokenizer, caplog):
    train(toy(True), tokenizer)
    assert "no box of 1 of 3 classes, which stay in the prompt and train as absent: 'absent, thing'" in caplog.text
    check_validation("val", toy(False), {"mine": toy(True)}, tokenizer, 256)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("value", [[float("nan"), 1, 5, 5], [1, 1, float("inf"), 5], [1, 2, 3]])
def test_boxes_that_are_no_numbers(toy, tokenizer, value):
    with pytest.raises(ValueError, match="set mine .*toy.json. has 1 boxes that are not.*annotation 1 of image 2 has"):
        train(toy(True, box(value)), tokenizer)
    with pytest.raises(ValueError, match="set val .* has 1 boxes that are not four finite numbers"):
        check_validation("val", toy(False, box(value)), {"mine": toy(True)}, tokenizer, 256)


def test_validation_that_could_not_be_evaluated(toy, tokenizer):
    data = toy(False, lambda content: content["annotations"][0].update(area="900"))
    with pytest.raises(ValueError, match="set val .*toy.json.: annotation 1 has the area '900', not a number"):
        check_validation("val", data, {"mine": toy(True)}, tokenizer, 256)


def test_boxes_without_numbers(toy, tokenizer):
    with pytest.raises(ValueError, match=r"image 2 has boxes that are not four numbers: \[1, 1, None, 5\]"):
        toy(True, box([1, 1, None, 5]))
    with pytest.raises(ValueError, match=r"image 2 has boxes that are not four numbers: None"):
        toy(True, lambda content: content["annotations"][0].pop("bbox"))
    with pytest.raises(ValueError, match="set val .* has 1 boxes that are not four finite numbers"):
        check_validation("val", toy(False, box([1, 1, None, 5])), {"mine": toy(True)}, tokenizer, 256)


@pytest.mark.parametrize("name", ["", "  ", "(what)"])
def test_class_without_a_name(toy, tokenizer, name):
    with pytest.raises(ValueError, match="set mine has 1 boxes of the class with label 1, whose name '.*' has no word"):
        train(toy(True, rename(name)), tokenizer)
    train(toy(True, rename(name, category_id=11)), tokenizer)  # without a box it does no harm


def test_names_that_are_alike(toy, tokenizer, caplog):
    train(toy(True, rename("Cat ", category_id=11)), tokenizer)
    assert "has 2 classes whose names are alike" in caplog.text and "Merge them" in caplog.text
    caplog.clear()
    prompts = [{"prefix": text, "name": "cat", "suffix": ""} for text in ("big ", "small ", "no ")]
    train(toy(True, disable_shuffle=True, use_caption_prompt=True, caption_prompt=prompts), tokenizer)
    assert "alike" not in caplog.text, "a manual prompt may tell them apart"


def test_names_in_another_script(toy, tokenizer, caplog):
    train(toy(True, rename("\N{HOT BEVERAGE} cat")), tokenizer)
    assert "has 1 class names with words that the text encoder does not know" in caplog.text


@pytest.mark.parametrize("entry", [{"id": 7, "name": None}, {"id": 7, "name": 5}, {"id": 7}])
def test_categories_without_a_text(toy, entry):
    with pytest.raises(ValueError, match="the category {.*} needs an id, and a text as its name"):
        toy(True, lambda content: content.update(categories=[entry]))
    with pytest.raises(ValueError, match="not in COCO format: an entry has no 'id'"):
        toy(True, lambda content: content.update(categories=[{"name": "cat"}]))
    with pytest.raises(ValueError, match="the category 5 needs an id, and a text as its name"):
        toy(True, override_category=[5])


def test_nothing_to_learn(toy, tokenizer):
    """Pictures that show nothing but crowds stay in a data set; where they are all, nothing would be trained."""

    def crowds(content):
        for annotation in content["annotations"]:
            annotation["iscrowd"] = 1

    with pytest.raises(ValueError, match="nothing to learn: no box that is not a crowd in 'mine'"):
        train(toy(True, crowds), tokenizer)
    check_training_parts({"crowds": toy(True, crowds), "mine": toy(True)}, tokenizer, 256)


def test_long_names(toy, tokenizer):
    long = " ".join(["dog"] * 80)
    train(toy(True, rename(long)), tokenizer, 256)
    with pytest.raises(
        ValueError, match=r"name 'dog dog .*\.\.\. takes 82 tokens, the model reads 48 of a whole prompt"
    ):
        train(toy(True, rename(long)), tokenizer, 48)
    with pytest.raises(ValueError, match="takes 82 tokens, the model reads 48"):
        check_validation("val", toy(False, rename(long)), {"mine": toy(True, rename(long))}, tokenizer, 48)
    shorter = rename(" ".join(["dog"] * 45))
    with pytest.raises(ValueError, match="would train as background: 'dog'"):
        train(toy(True, shorter, disable_shuffle=True), tokenizer, 48)


def test_validation_without_boxes(toy, tokenizer):
    empty = toy(False, lambda content: content.update(annotations=[]))
    with pytest.raises(
        ValueError, match="set val .* has no box in 3 pictures, so that no weights can be called the best"
    ):
        check_validation("val", empty, {"mine": toy(True)}, tokenizer, 256)


def test_validation_of_other_categories(toy, tokenizer, caplog):
    training = {"mine": toy(True)}
    check_validation("val", toy(False, rename("Cat")), training, tokenizer, 256)
    with pytest.raises(ValueError, match="boxes of 1 classes that the training data do not name: 'tiger'. Training"):
        check_validation("val", toy(False, rename("tiger")), training, tokenizer, 256)
    assert not caplog.records
    check_validation("val", toy(False, rename("tiger", category_id=11)), training, tokenizer, 256)
    assert "does not measure the trained classes 'absent, thing'" in caplog.text


def test_parts_and_choices(toy):
    few = toy(True, few_shot=1, shuffle_seed=3)
    parts = parts_of(ConcatDataset([CopiedDataset(few, 4), toy(True)]))
    assert parts[0] is few and len(parts) == 2
    (name, choice), *others = few_shot_choices(("a", "b"), parts).items()
    assert name == "a" and not others and choice["image_ids"] == few.ids and choice["seed"] == 3
    assert json.loads(json.dumps(choice)) == choice


def test_captions_are_left_alone(toy, tokenizer):
    captions = ModulatedDataset.__new__(ModulatedDataset)
    check_training_parts({"text": captions}, tokenizer, 256)
    check_validation("val", toy(False, rename("tiger")), {"text": captions}, tokenizer, 256)
    check_validation("val", captions, {"mine": toy(True)}, tokenizer, 256)
