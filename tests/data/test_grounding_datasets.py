"""Grounding data: converted annotations, token maps, and captions under a mirrored picture."""

import json
import random

import pytest
import torch
from data_files import write_grounding_toy
from PIL import Image

from maskrcnn_benchmark.data.collate_batch import BatchCollator
from maskrcnn_benchmark.data.datasets.caption_packing import ForeignCaptions, PackSize
from maskrcnn_benchmark.data.datasets.directional_caption import mirror_text
from maskrcnn_benchmark.data.datasets.modulated import FlickrDataset, MixedDataset
from maskrcnn_benchmark.data.transforms import Compose, RandomHorizontalFlip, Resize, ToTensor
from maskrcnn_benchmark.text.tokenizer import build_tokenizer


@pytest.fixture
def tokenizer(bert_vocabulary):
    return build_tokenizer(bert_vocabulary)


def dataset(folder, tokenizer, **options) -> FlickrDataset:
    options = {"transforms": Compose([Resize(160, 1333), ToTensor()]), "tokenizer": tokenizer, **options}
    return FlickrDataset(folder, write_grounding_toy(folder), **options)


def test_training_item(tmp_path, tokenizer):
    image, target, index = dataset(tmp_path, tokenizer, is_train=True)[0]
    assert image.shape == (3, 160, 200) and index == 0
    # x, y, width, height -> inclusive corners, clamped to 100 x 80, then twice the size.
    assert target.get_field("boxes").tolist() == [[10, 10, 29, 29], [50, 10, 99, 39]]
    assert target.bbox.tolist() == [[20, 20, 58, 58], [100, 20, 198, 78]]
    assert target.get_field("caption") == "the red cup left of the dog"
    positive_map = target.get_field("positive_map")
    assert positive_map.shape == (2, 256)
    assert positive_map[0].nonzero().flatten().tolist() == [1, 2, 3]
    assert positive_map[1].nonzero().flatten().tolist() == [6, 7]
    assert positive_map.sum(1).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    assert target.get_field("greenlight_map")[:9].tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 0]
    assert set(target.get_field("positive_map_for_od_labels").tolist()) == {-1.0}
    assert target.get_field("original_od_label").tolist() == [-10, -10]
    assert target.get_field("orig_size").tolist() == [80, 100]
    assert not target.has_field("positive_map_eval")


def test_evaluation_item_has_phrases_and_names(tmp_path, tokenizer):
    data = dataset(tmp_path, tokenizer)
    first, second = data[0][1], data[1][1]
    assert first.get_field("positive_map_eval").shape == (2, 256)
    assert first.get_field("nb_eval") == 2 and isinstance(first.get_field("nb_eval"), int)
    assert first.get_field("dataset_name") == "toy"
    assert (second.get_field("sentence_id"), second.get_field("original_img_id")) == (4, 77)
    assert len(first[torch.tensor([1])].get_field("positive_map_eval")) == 2, "phrases are no boxes"


def test_items_make_a_batch(tmp_path, tokenizer):
    data = dataset(tmp_path, tokenizer, is_train=True)
    *_, positive_map, positive_map_eval, greenlight_map = BatchCollator(32)([data[0], data[1]])
    assert positive_map.shape == (3, 256) and greenlight_map.shape == (2, 256) and positive_map_eval is None
    assert positive_map[2].nonzero().flatten().tolist() == [2, 3]


def test_no_mask_for_gold_switches_masking_off(tmp_path, tokenizer):
    target = dataset(tmp_path, tokenizer, no_mask_for_gold=True)[0][1]
    assert set(target.get_field("greenlight_map").tolist()) == {-1.0}


def flipped(tmp_path, tokenizer, **options):
    transforms = Compose([RandomHorizontalFlip(1.0), ToTensor()])
    return dataset(tmp_path, tokenizer, transforms=transforms, is_train=True, **options)[0][1]


def test_flip_keeps_the_caption_by_default(tmp_path, tokenizer):
    target = flipped(tmp_path, tokenizer)
    assert target.bbox[0].tolist() == [70, 10, 89, 29]
    assert target.get_field("caption") == "the red cup left of the dog"


def test_caption_aware_flip_exchanges_left_and_right(tmp_path, tokenizer):
    target = flipped(tmp_path, tokenizer, flip_caption_aware=True)
    assert target.bbox[0].tolist() == [70, 10, 89, 29]
    assert target.get_field("caption") == "the red cup right of the dog"
    assert target.get_field("tokens_positive") == [[(0, 11)], [(21, 28)]]
    assert target.get_field("positive_map")[1].nonzero().flatten().tolist() == [6, 7]
    assert "directional_caption" not in target.fields()


def test_caption_aware_flip_without_a_flip_changes_nothing(tmp_path, tokenizer):
    target = dataset(tmp_path, tokenizer, is_train=True, flip_caption_aware=True)[0][1]
    assert target.get_field("caption") == "the red cup left of the dog"


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("left", "right"),
        ("Left of the RIGHT lamp", "Right of the LEFT lamp"),
        ("the leftmost cup, right-hand side", "the rightmost cup, left-hand side"),
        ("bright leftover cleft", "bright leftover cleft"),
    ],
)
def test_mirror_text(text, mirrored):
    assert mirror_text(text).text == mirrored
    assert mirror_text(mirrored).text == text


def test_mirror_text_moves_spans_with_their_words():
    text = "the cup left of a dog right of a left hat"
    mirrored = mirror_text(text)
    for phrase, expected in [
        ("the cup", "the cup"),
        ("a dog", "a dog"),
        ("a left hat", "a right hat"),
        ("left", "right"),
    ]:
        begin = text.index(phrase)
        new_begin, new_end = mirrored.move((begin, begin + len(phrase)))
        assert mirrored.text[new_begin:new_end] == expected
    assert mirrored.move((-1, -1, -1)) == (-1, -1, -1)


def test_mixed_data_choose_the_folder_by_source(tmp_path, tokenizer):
    (tmp_path / "vg").mkdir()
    data = MixedDataset(tmp_path / "coco", tmp_path / "vg", write_grounding_toy(tmp_path), None, tokenizer=tokenizer)
    assert data.image_path({"file_name": "a.jpg", "data_source": "coco"}) == str(tmp_path / "coco" / "a.jpg")
    assert data.image_path({"file_name": "a.jpg", "data_source": "vg"}) == str(tmp_path / "vg" / "a.jpg")


def test_mixed_data_have_no_phrases_and_names_to_evaluate(tmp_path, tokenizer):
    path = write_grounding_toy(tmp_path)
    grounded, mixed = (
        FlickrDataset(tmp_path, path, tokenizer=tokenizer),
        MixedDataset(tmp_path, tmp_path, path, tokenizer=tokenizer),
    )
    evaluated = {"dataset_name", "sentence_id", "original_img_id", "positive_map_eval", "nb_eval"}
    for index in range(2):
        assert set(mixed[index][1].fields()) == set(grounded[index][1].fields()) - evaluated


def test_arguments_of_mixed_data_by_position(tmp_path, tokenizer):
    """(coco, vg, file, transforms, masks, tokens, tokenizer, no clipping, no mask, tokens of a caption)"""
    path = write_grounding_toy(tmp_path)
    target = MixedDataset(tmp_path, tmp_path, path, None, False, True, tokenizer, False, True, 64)[0][1]
    assert target.get_field("greenlight_map").tolist() == [-1.0] * 64


def with_foreign_captions(tmp_path, tokenizer, **options) -> FlickrDataset:
    path = write_grounding_toy(tmp_path)
    content = json.loads(path.read_text())
    content["images"][1]["file_name"] = "other.png"
    Image.open(tmp_path / "scene.png").save(tmp_path / "other.png")
    path.write_text(json.dumps(content))
    random.seed(0)
    return FlickrDataset(
        tmp_path, path, None, tokenizer=tokenizer, is_train=True, foreign_captions=ForeignCaptions(**options)
    )


def test_foreign_captions_stand_beside_the_own_one(tmp_path, tokenizer):
    data = with_foreign_captions(tmp_path, tokenizer, pack_size=PackSize(1), score_own_only=True)
    own, other = "the red cup left of the dog", "a small dog"
    texts = set()
    for _ in range(10):
        target = data[0][1]
        caption, tokens = target.get_field("caption"), tokenizer(target.get_field("caption")).tokens()
        texts.add(caption)
        spans = target.get_field("tokens_positive")
        assert [caption[begin:end] for ((begin, end),) in spans] == ["the red cup", "the dog"]
        rows = [row.nonzero().flatten().tolist() for row in target.get_field("positive_map")]
        assert [[tokens[i] for i in row] for row in rows] == [["the", "red", "cup"], ["the", "dog"]]
        scored = [tokens[i] for i in target.get_field("greenlight_map").nonzero().flatten().tolist()]
        assert scored == own.split()
    assert texts == {f"{own}. {other}. ", f"{other}. {own}. "}


def test_a_foreign_caption_in_place_of_the_own_one_leaves_no_boxes(tmp_path, tokenizer):
    target = with_foreign_captions(tmp_path, tokenizer, replace_probability=1.0)[0][1]
    assert target.get_field("caption") == "a small dog" and len(target) == 0
    assert target.get_field("positive_map").shape == (0, 256)


def test_foreign_captions_are_for_training(tmp_path, tokenizer):
    options = {"tokenizer": tokenizer, "foreign_captions": ForeignCaptions(PackSize(3))}
    target = FlickrDataset(tmp_path, write_grounding_toy(tmp_path), None, **options)[0][1]
    assert target.get_field("caption") == "the red cup left of the dog"


def test_box_outside_its_picture_is_dropped_with_its_span(tmp_path, tokenizer):
    path = write_grounding_toy(tmp_path)
    path.write_text(path.read_text().replace("[50, 10, 60, 30]", "[150, 10, 60, 30]"))
    data = FlickrDataset(tmp_path, path, None, tokenizer=tokenizer, is_train=True)
    target = data[0][1]
    assert len(target) == 1 and target.get_field("tokens_positive") == [[[0, 11]]]
    assert target.get_field("positive_map").shape == (1, 256)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda content: content["annotations"][1].pop("tokens_positive"),
            "annotation 2 of image 1 has no tokens_positive",
        ),
        (
            lambda content: [one.pop("tokens_positive") for one in content["annotations"]],
            "annotation 1 of image 1 has no",
        ),
        (lambda content: content["images"][0].pop("caption"), "image 1 of .*broken.json has no caption"),
        (
            lambda content: content["annotations"][1].update(bbox=[1, 2, 30]),
            r"annotation 2 of image 1: \[1, 2, 30\] is no",
        ),
        (lambda content: content["annotations"][0].update(bbox=["1", 2, 30, 4]), r"annotation 1 of image 1: \['1', 2"),
    ],
)
def test_what_a_sentence_lacks_is_named(tmp_path, tokenizer, change, message):
    content = json.loads(write_grounding_toy(tmp_path).read_text())
    change(content)
    (tmp_path / "broken.json").write_text(json.dumps(content))
    data = FlickrDataset(tmp_path, tmp_path / "broken.json", tokenizer=tokenizer, is_train=True)
    with pytest.raises(ValueError, match=message):
        data[0]
