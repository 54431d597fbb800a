"""Pseudo-labelled captions: items, screening, foreign captions, questions."""

import json
import random

import numpy as np
import pytest
from tsv_files import write_tsv, write_tsv_dataset

from maskrcnn_benchmark.config import default_config
from maskrcnn_benchmark.data.collate_batch import BatchCollator
from maskrcnn_benchmark.data.dataset_options import dataset_options
from maskrcnn_benchmark.data.datasets.caption_record import CaptionRecord, caption_label, read_caption_record
from maskrcnn_benchmark.data.datasets.caption_tsv import CaptionTSV, PseudoData
from maskrcnn_benchmark.data.transforms import Compose, RandomHorizontalFlip, Resize, ToTensor
from maskrcnn_benchmark.text.tokenizer import build_tokenizer

CAT, DOG = [10, 10, 39, 39], [50, 10, 99, 39]


@pytest.fixture
def tokenizer(bert_vocabulary):
    random.seed(0)
    np.random.seed(0)
    return build_tokenizer(bert_vocabulary)


def label(caption: str, boxes=(), spans=(), scores=(), **other) -> dict:
    size = {"img_h": 80, "img_w": 100}
    return size | {"caption": caption, "bboxes": boxes, "tokens_positive": spans, "scores": scores} | other


def labels() -> dict:
    """Three rows: two boxes; three, of which the first lies outside; none."""
    return {
        "a": label("a cat near a dog", [CAT, DOG], [[[2, 5]], [[11, 16]]], [0.9, 0.6]),
        "b": label(
            "one bird, two cups", [[120, 5, 130, 9], CAT, DOG], [[[0, 8]], [[10, 18]], [[4, 8]]], [0.7, 0.8, 0.95]
        ),
        "c": label("nothing here"),
    }


def dataset(folder, tokenizer, content=None, kind=CaptionTSV, **options):
    return kind(write_tsv_dataset(folder, content or labels()), tokenizer=tokenizer, **options)


def named(target) -> list[list[str]]:
    """The phrases of every box."""
    caption = target.get_field("caption")
    return [[caption[begin:end] for begin, end in spans] for spans in target.get_field("tokens_positive")]


def test_items(tmp_path, tokenizer):
    data = dataset(tmp_path, tokenizer, transforms=Compose([Resize(160, 1333), ToTensor()]))
    image, target, index = data[0]
    assert image.shape == (3, 160, 200) and index == 0
    assert target.bbox.tolist() == [[20, 20, 78, 78], [100, 20, 198, 78]]
    assert target.get_field("boxes").tolist() == [CAT, DOG] and target.get_field("labels").tolist() == [1, 1]
    assert named(target) == [["cat"], ["a dog"]] and target.get_field("image_id").tolist() == [0]
    assert target.get_field("positive_map")[1].nonzero().flatten().tolist() == [4, 5]
    assert target.get_field("greenlight_map")[:7].tolist() == [0, 1, 1, 1, 1, 1, 0]
    assert data.get_img_info(0) == {"height": 80, "width": 100, "key": "a"} and data.get_img_id(1) == "b"
    assert data.get_raw_image(0).size == (100, 80)
    *_, positive_map, positive_map_eval, greenlight_map = BatchCollator(32)([data[0], data[1]])
    assert positive_map.shape == (4, 256) and greenlight_map.shape == (2, 256) and positive_map_eval is None


def test_boxes_outside_go_with_their_phrases(tmp_path, tokenizer):
    target = dataset(tmp_path, tokenizer)[1][1]
    assert target.bbox.tolist() == [CAT, DOG] and named(target) == [["two cups"], ["bird"]]


def test_boxes_refer_to_the_size_in_the_label(tmp_path, tokenizer):
    """Pictures may be stored smaller than they were when the boxes were found; a file of sizes tells how they are."""
    far = [120, 10, 180, 100]
    content = {"a": labels()["a"] | {"img_w": 200, "img_h": 160, "bboxes": [CAT, far]}}
    write_tsv(tmp_path / "sizes.tsv", [("a", "80 100")])
    transforms = Compose([Resize(80, 1333), ToTensor()])
    image, target, _ = dataset(tmp_path, tokenizer, content, hw="sizes.tsv", transforms=transforms)[0]
    assert image.shape == (3, 80, 100) and target.size == (100, 80)
    assert target.get_field("boxes").tolist() == [CAT, far]
    assert target.bbox.tolist() == [[side / 2 for side in box] for box in (CAT, far)]


def test_boxes_that_are_none_are_named(tmp_path, tokenizer):
    content = {"a": labels()["a"] | {"bboxes": [CAT, DOG[:3]]}}
    with pytest.raises(ValueError, match=r"picture 'a' of .*data\.yaml: .* is no box of four numbers"):
        dataset(tmp_path, tokenizer, content)[0]


def test_rows_with_too_few_boxes_give_way(tmp_path, tokenizer):
    assert {dataset(tmp_path, tokenizer)[2][2] for _ in range(20)} == {0, 1}
    data = dataset(tmp_path, tokenizer, caption_min_box=3)
    assert {data[i][2] for i in (0, 1, 2)} == {1}
    with pytest.raises(ValueError, match=r"less than 4 usable boxes .*CAPTION_MIN_BOX"):
        dataset(tmp_path, tokenizer, caption_min_box=4)[0]


def test_screening(tmp_path, tokenizer):
    data = dataset(tmp_path, tokenizer, further_screen=True, caption_conf=0.75, caption_nms=0.5)
    assert named(data[0][1]) == [["cat"]] and named(data[1][1]) == [["bird"], ["two cups"]]


def test_boxes_grouped_by_phrase(tmp_path, tokenizer):
    content = {"a": label("two cats", [[CAT, DOG]], [[[0, 8]]], [[0.9, 0.8]])}
    assert named(dataset(tmp_path, tokenizer, content, caption_format_version="v2")[0][1]) == [["two cats"]] * 2


def test_foreign_captions(tmp_path, tokenizer):
    data = dataset(tmp_path, tokenizer, pack_random_caption_number=2, mlm_obj_for_only_positive=True)
    places = set()
    for _ in range(20):
        target = data[0][1]
        caption = target.get_field("caption")
        assert named(target) == [["cat"], ["a dog"]] and caption.count(". ") == 3
        places.add(caption.index("a cat near"))
        tokens = tokenizer(caption).tokens()
        scored = [tokens[i] for i in target.get_field("greenlight_map").nonzero().flatten()]
        assert scored == "a cat near a dog".split()
    assert len(places) > 1


def test_foreign_captions_leave_room_for_the_own(tmp_path, tokenizer):
    content = labels() | {"d": label("word " * 300)}
    data = dataset(tmp_path, tokenizer, content, pack_random_caption_number=60)
    for _ in range(5):
        target = data[0][1]
        assert "word" not in target.get_field("caption") and (target.get_field("positive_map").sum(1) > 0.9).all()


def test_items_without_boxes_under_a_foreign_caption(tmp_path, tokenizer):
    data = dataset(tmp_path, tokenizer, sample_negative_for_grounding_data=1.0)
    captions = set()
    for _ in range(20):
        image, target, index = data[0]
        assert image.size == (100, 80) and len(target) == 0 and index == 0
        assert target.get_field("positive_map").shape == (0, 256)
        captions.add(target.get_field("caption"))
    assert captions == {"one bird, two cups", "nothing here"}


def test_captions_alone(tmp_path, tokenizer):
    data = dataset(tmp_path, tokenizer, {"c": {"caption": "a dog"}}, inference_caption=True, transforms=None)
    _, target, _ = data[0]
    assert target.get_field("caption") == "a dog" and len(target) == 0 and target.size == (100, 80)


@pytest.mark.parametrize(
    ("is_aware", "caption", "phrase"), [(True, "the right cup", "right cup"), (False, "the left cup", "left cup")]
)
def test_captions_follow_a_mirrored_picture(tmp_path, tokenizer, is_aware, caption, phrase):
    content = {"a": label("the left cup", [CAT], [[[4, 12]]], [0.9])}
    mirror = Compose([RandomHorizontalFlip(1.0), ToTensor()])
    target = dataset(tmp_path, tokenizer, content, transforms=mirror, flip_caption_aware=is_aware)[0][1]
    assert target.get_field("caption") == caption and named(target) == [[phrase]] and target.bbox[0, 0] == 60
    words = [tokenizer(caption).tokens()[i] for i in target.get_field("positive_map")[0].nonzero().flatten()]
    assert words == phrase.split()


@pytest.mark.parametrize("kind", [CaptionTSV, PseudoData])
@pytest.mark.parametrize(
    "content",
    [{"captions": ["a", "dog"]}, {"googlecc": "a dog"}, [{"caption": "a"}, {"caption": "dog"}], label("a dog", [CAT])],
)
def test_forms_of_captions_alone(tmp_path, tokenizer, kind, content):
    data = dataset(tmp_path, tokenizer, {"c": content}, kind, inference_caption=True, diver_box_for_vqa=True)
    image, target, index = data[0]
    assert target.get_field("caption") == "a dog" and len(target) == 0 and (image.size, index) == ((100, 80), 0)


def test_rows_without_a_caption_are_named(tmp_path, tokenizer):
    content = {"c": {"img_h": 80, "img_w": 100}}
    with pytest.raises(ValueError, match=r"item 0 \(c\) of .*data.yaml: no caption in"):
        dataset(tmp_path, tokenizer, content, inference_caption=True)[0]


def test_captions_alone_also_for_testing():
    cfg = default_config()
    assert [dataset_options(cfg, is_train)["inference_caption"] for is_train in (True, False)] == [False, False]
    cfg.DATASETS.INFERENCE_CAPTION = True
    assert [dataset_options(cfg, is_train)["inference_caption"] for is_train in (True, False)] == [True, True]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_labels_are_read_as_they_were_written(version):
    spans = [[[4, 8]], [[10, 18]], [[4, 8]]]
    record = CaptionRecord("one bird, two cups", [CAT, DOG, [1, 2, 3, 4]], spans, [0.5, 0.7, 0.9])
    label = json.loads(json.dumps(caption_label(record, (100, 80), version)))
    assert (label["img_w"], label["img_h"], len(label["bboxes"])) == (100, 80, 3 if version == "v1" else 2)
    read = read_caption_record(label, version)
    order = [0, 1, 2] if version == "v1" else [0, 2, 1]
    assert read == record.select(order)._replace(size=(100, 80))


@pytest.mark.parametrize(("written", "read"), [("v1", "v2"), ("v2", "v1")])
def test_labels_in_the_other_format_are_named(written, read):
    label = caption_label(CaptionRecord("two cats", [CAT, DOG], [[[0, 8]]] * 2, [0.9, 0.8]), (100, 80), written)
    with pytest.raises(ValueError, match=f"'two cats': its boxes are .*grouped .*CAPTION_FORMAT_VERSION {written}"):
        read_caption_record(label, read)
    nothing = caption_label(CaptionRecord("", [], [], []), (100, 80), written)
    assert read_caption_record(nothing, read).boxes == []


def test_questions(tmp_path, tokenizer):
    question = "what is near the cat?"
    content = {"q": label(f"{question} a dog", [CAT, DOG], [[[17, 20]], [[22, 27]]], [1, 1], text=question)}
    target = dataset(tmp_path, tokenizer, content, PseudoData, diver_box_for_vqa=True)[0][1]
    assert target.get_field("caption") == "what is near the cat?[MASK]" and named(target) == [["cat"], ["[MASK]"]]
    tokens = tokenizer(target.get_field("caption")).tokens()
    assert tokens[int(target.get_field("positive_map")[1].argmax())] == "[MASK]"
    assert named(dataset(tmp_path, tokenizer, content, PseudoData)[0][1]) == [["cat"], ["a dog"]]


def test_clean_labels(tmp_path, tokenizer):
    path = write_tsv_dataset(tmp_path, labels())
    clean = (tmp_path / "raw_label.tsv").read_text().replace("a cat near", "a kitten near")
    (tmp_path / "clean_label.tsv").write_text(clean)
    data = CaptionTSV(path, tokenizer=tokenizer, replace_clean_label=True)
    assert data[0][1].get_field("caption") == "a kitten near a dog"
    (tmp_path / "raw_label.tsv").rename(tmp_path / "label.tsv")
    path.write_text("img: images.tsv\nlabel: label.tsv\n")
    with pytest.raises(ValueError, match="raw_label"):
        CaptionTSV(path, tokenizer=tokenizer, replace_clean_label=True)


def test_mistakes_are_named(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="'v3'"):
        dataset(tmp_path, tokenizer, caption_format_version="v3")
    with pytest.raises(ValueError, match=r"item 0 \(a\) .* has no 'bboxes'"):
        dataset(tmp_path, tokenizer, {"a": {"caption": "x"}})[0]
    path = write_tsv_dataset(tmp_path, labels())
    path.write_text("img: images.tsv\n")
    with pytest.raises(ValueError, match="no label file"):
        CaptionTSV(path, tokenizer=tokenizer)
