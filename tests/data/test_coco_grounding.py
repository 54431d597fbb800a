"""Detection data as grounding data: captions of class names, maps of boxes, options."""

import json
import random

import pytest
import torch
from data_files import write_coco_toy

from maskrcnn_benchmark.data.datasets.coco_grounding import CocoGrounding
from maskrcnn_benchmark.text.tokenizer import build_tokenizer


@pytest.fixture
def tokenizer(bert_vocabulary):
    return build_tokenizer(bert_vocabulary)


def dataset(folder, tokenizer, **options) -> CocoGrounding:
    return CocoGrounding(folder, write_coco_toy(folder), tokenizer=tokenizer, separation_tokens=". ", **options)


def test_item_in_the_order_of_the_labels(tmp_path, tokenizer):
    data = dataset(tmp_path, tokenizer, disable_shuffle=True)
    assert data.categories() == data.ind_to_class == {1: "cat", 2: "dog", 3: "absent, thing"}
    _, target, index = data[1]
    assert index == 1 and target.bbox.tolist() == [[20, 20, 59, 59]] and target.get_field("labels").tolist() == [2]
    assert target.get_field("caption") == "cat. dog. absent, thing"
    assert target.get_field("tokens_positive") == [[(5, 8)]]
    assert target.get_field("positive_map").nonzero().tolist() == [[0, 3]]
    assert target.get_field("greenlight_map").nonzero().flatten().tolist() == [3]
    assert set(target.get_field("positive_map_for_od_labels").tolist()) == {-1.0}


def test_shuffled_caption_still_names_the_box(tmp_path, tokenizer):
    data = dataset(tmp_path, tokenizer)
    random.seed(1)
    captions = set()
    for _ in range(12):
        target = data[0][1]
        caption, ((begin, end),) = target.get_field("caption"), target.get_field("tokens_positive")[0]
        assert caption[begin:end] == "cat"
        tokens = tokenizer(caption).tokens()
        assert [tokens[i] for i in target.get_field("positive_map")[0].nonzero().flatten()] == ["cat"]
        captions.add(caption)
    assert len(captions) > 1


def test_picture_of_a_crowd_gives_no_boxes(tmp_path, tokenizer):
    target = dataset(tmp_path, tokenizer)[2][1]
    assert len(target) == 0 and target.get_field("positive_map").shape == (0, 256)


def test_few_shot_takes_sparse_ids_and_the_seed(tmp_path, tokenizer):
    assert dataset(tmp_path, tokenizer, few_shot=1).ids == [2, 5]
    assert {dataset(tmp_path, tokenizer, few_shot=1, shuffle_seed=seed).ids[0] for seed in range(1, 9)} == {2, 5, 9}


def test_caption_prompt_and_override(tmp_path, tokenizer):
    categories = [{"id": 3, "name": "hound"}, {"id": 7, "name": "tiger"}]
    prompt = [
        {"prefix": "a ", "name": "hound", "suffix": " that barks"},
        {"prefix": "", "name": "tiger", "suffix": ""},
    ]
    data = dataset(
        tmp_path,
        tokenizer,
        disable_shuffle=True,
        override_category=categories,
        use_caption_prompt=True,
        caption_prompt=prompt,
    )
    target = data[0][1]
    assert target.get_field("caption") == "a hound that barks. tiger" and target.get_field("labels").tolist() == [2]
    assert target.get_field("tokens_positive") == [[(20, 25)]]


def test_safeguard_names_the_classes_of_the_picture(tmp_path, tokenizer):
    data = dataset(tmp_path, tokenizer, special_safeguard_for_coco_grounding=True, random_sample_negative=-1)
    target = data[0][1]
    assert target.get_field("caption") == "cat" and target.get_field("original_od_label").tolist() == [1]
    data = dataset(tmp_path, tokenizer, special_safeguard_for_coco_grounding=True, random_sample_negative=3)
    assert set(data[0][1].get_field("caption").split(". ")) == {"cat", "dog", "absent, thing"}


def test_contradicting_options_are_named(tmp_path, tokenizer):
    prompt = [{"prefix": "", "name": "x", "suffix": ""}] * 3
    with pytest.raises(ValueError, match="SPECIAL_SAFEGUARD"):
        dataset(
            tmp_path,
            tokenizer,
            special_safeguard_for_coco_grounding=True,
            use_caption_prompt=True,
            caption_prompt=prompt,
        )
    with pytest.raises(ValueError, match="ONE_HOT: 3 classes do not fit into the 2 columns"):
        dataset(tmp_path, tokenizer, one_hot=True, max_query_len=2)[0]
    with pytest.raises(ValueError, match="MASK_ON"):
        dataset(tmp_path, tokenizer, return_masks=True)


def test_no_mask_for_od(tmp_path, tokenizer):
    greenlight_map = dataset(tmp_path, tokenizer, no_mask_for_od=True)[0][1].get_field("greenlight_map")
    assert torch.equal(greenlight_map, torch.full((256,), -1.0))


@pytest.mark.parametrize(("no_minus_one", "columns", "visible"), [(False, [[0, 1]], 3), (True, [[0, 2]], 256)])
def test_one_hot_maps(tmp_path, tokenizer, no_minus_one, columns, visible):
    data = dataset(tmp_path, tokenizer, one_hot=True, no_minus_one_for_one_hot=no_minus_one)
    target = data[1][1]
    assert target.get_field("labels").tolist() == [2]
    assert target.get_field("positive_map").nonzero().tolist() == columns
    mask = target.get_field("text_mask")
    assert mask.shape == (256,) and mask[:visible].all() and not mask[visible:].any()
    crowd = data[2][1]
    assert crowd.get_field("positive_map").shape == (0, 256)


def test_verified_negatives_of_lvis(tmp_path, tokenizer):
    path = write_coco_toy(tmp_path)
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["neg_category_ids"] = [11, 999]  # 999: a category that the list leaves out
    path.write_text(json.dumps(content))
    options = {"special_safeguard_for_coco_grounding": True, "random_sample_negative": 2, "negative_pool": "verified"}
    data = CocoGrounding(tmp_path, path, tokenizer=tokenizer, separation_tokens=". ", is_train=True, **options)
    assert {data[0][1].get_field("caption") for _ in range(20)} == {"cat. absent, thing", "absent, thing. cat"}
    with pytest.raises(ValueError, match="neg_category_ids"):
        dataset(tmp_path, tokenizer, **options)[0]
