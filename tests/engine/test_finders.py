"""Batched, cached evaluation finds what a caption with a picture at a time finds."""

import json

import pytest
import tiny_detector
import torch
from tiny_detector import assert_same_boxes

from maskrcnn_benchmark.engine.finders import (
    CaptionFinder,
    ForwardCaptionFinder,
    ForwardPromptFinder,
    Item,
    KnowledgeFinder,
    PromptFinder,
)
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.boxlist_ops import cat_boxlist
from maskrcnn_benchmark.structures.image_list import ImageList
from maskrcnn_benchmark.text.positive_map import create_positive_map
from maskrcnn_benchmark.text.prompt import build_prompts

NAMES = ["red star", "blue cup", "green tree", "yellow circle", "cup", "star", "blue tree"]


@pytest.fixture(params=["glip_Swin_T_O365_GoldG", "glip_A_Swin_T_O365"])
def model(request, tmp_path):
    return make_model(tmp_path, request.param)


def make_model(folder, base="glip_Swin_T_O365_GoldG", *options):
    text = tiny_detector.make_text_folder(folder / "text")
    torch.manual_seed(0)
    cfg = tiny_detector.tiny_config(text, "MODEL.ATSS.INFERENCE_TH", 0.0, *options, base=base)
    return tiny_detector.scramble(build_detection_model(cfg), scale=0.1).eval()


def alone(images: ImageList, number: int) -> ImageList:
    return ImageList(images.tensors[number : number + 1], images.image_sizes[number : number + 1])


@pytest.mark.parametrize("per_prompt", [7, 4, 1])
@torch.no_grad()
def test_prompts(model, per_prompt):
    """One, two and seven prompts for three pictures: fewer and more texts than pictures."""
    images = tiny_detector.random_images((64, 96), (64, 96), (64, 96))
    prompts = build_prompts(NAMES, model.tokenizer, chunk_size=per_prompt)
    assert len(prompts) == -(-7 // per_prompt)
    items = [Item(None, number) for number in range(3)]
    finder = PromptFinder(model, prompts)
    found = finder(images, items)
    assert_same_boxes(finder.start(images, items)(), found)
    slow = ForwardPromptFinder(model, prompts)
    for number in range(3):
        (one_by_one,) = slow(alone(images, number), items[:1])
        assert set(one_by_one.get_field("labels").tolist()) == set(range(1, 8))
        assert_same_boxes([found[number]], [one_by_one], atol=1e-5)


@torch.no_grad()
def test_texts_are_encoded_once(model, monkeypatch):
    calls = []
    encode_text, encode_images = model.encode_text, model.encode_images
    monkeypatch.setattr(model, "encode_text", lambda captions: calls.append("text") or encode_text(captions))
    monkeypatch.setattr(model, "encode_images", lambda images: calls.append("images") or encode_images(images))
    find = PromptFinder(model, build_prompts(NAMES, model.tokenizer, chunk_size=2))
    for _ in range(3):
        find(tiny_detector.random_images((64, 96)), [Item(None, 0)])
    assert calls.count("text") == 1 and calls.count("images") == 3


def sentence(model, caption: str, phrases: list[str], picture: str) -> Item:
    spans = [[(caption.index(phrase), caption.index(phrase) + len(phrase))] for phrase in phrases]
    target = BoxList([], (96, 64))
    target.add_field("caption", caption, per_box=False)
    target.add_field("positive_map_eval", create_positive_map(model.tokenizer(caption), spans), per_box=False)
    return Item(target, picture, spans)


def sentences(model) -> list[Item]:
    return [
        sentence(model, "a red star left of a tree", ["red star", "tree"], "first"),
        sentence(model, "a blue cup", ["blue cup"], "second"),
        sentence(model, "the green tree and the cup", ["green tree", "cup"], "first"),
    ]


@torch.no_grad()
def test_captions_of_one_picture_share_its_features(model, monkeypatch):
    images = tiny_detector.random_images((64, 96), (64, 96))
    batch = ImageList(images.tensors[[0, 1, 0]], [(64, 96)] * 3)
    items = sentences(model)
    encoded = []
    encode = model.encode_images
    monkeypatch.setattr(model, "encode_images", lambda given, *rest: encoded.append(len(given)) or encode(given, *rest))
    found = CaptionFinder(model)(batch, items)
    assert encoded == [2]
    slow = ForwardCaptionFinder(model)
    for number, item in enumerate(items):
        assert_same_boxes([found[number]], slow(alone(batch, number), [item]), atol=1e-5)


@torch.no_grad()
def test_mirrored_pictures_have_mirrored_captions(model):
    images = tiny_detector.random_images((64, 96))
    mirrored = sentence(model, "a red star right of a tree", ["red star", "tree"], "first")
    found = CaptionFinder(model)(images, sentences(model)[:1], mirrored=True)
    assert_same_boxes(found, CaptionFinder(model)(images, [mirrored]), atol=1e-6)


@torch.no_grad()
def test_mirrored_pictures_have_mirrored_prompts(model):
    images, items = tiny_detector.random_images((64, 96)), [Item(None, 0)]
    find = PromptFinder(model, build_prompts(["left cup", "star"], model.tokenizer))
    other = PromptFinder(model, build_prompts(["right cup", "star"], model.tokenizer))
    assert_same_boxes(find(images, items, mirrored=True), other(images, items), atol=1e-6)
    assert_same_boxes(find(images, items), other(images, items, mirrored=True), atol=1e-6)


@torch.no_grad()
def test_backbone_that_reads_text(tmp_path):
    model = make_model(
        tmp_path,
        "glip_Swin_T_O365_GoldG",
        "MODEL.SWINT.VERSION",
        "vl",
        "MODEL.BACKBONE.CONV_BODY",
        "SWINT-FPN-RETINANET",
    )
    images, items = tiny_detector.random_images((64, 96), (64, 96)), [Item(None, 0), Item(None, 1)]
    prompts = build_prompts(NAMES, model.tokenizer, chunk_size=3)
    assert model.backbone.reads_text
    found, slow = PromptFinder(model, prompts)(images, items), ForwardPromptFinder(model, prompts)(images, items)
    assert_same_boxes(found, slow, atol=1e-5)


KNOWLEDGE = {
    "cup_n": {"clean_name": "cup", "def_wiki": "a small blue box"},
    "star_n": {"clean_name": "star", "def_wiki": "a red light far away"},
}


@pytest.mark.parametrize("per_text", [3, 2])
@pytest.mark.parametrize("aggregation", ["first", "mean"])
@torch.no_grad()
def test_classes_with_descriptions(tmp_path, per_text, aggregation):
    """The same as the model's own call, which takes one picture and one list of classes."""
    path = tmp_path / "knowledge.yaml"
    path.write_text(json.dumps(KNOWLEDGE))
    know = ("GLIPKNOW.PARALLEL_LANGUAGE_INPUT", True, "GLIPKNOW.KNOWLEDGE_FILE", str(path))
    options = (*know, "GLIPKNOW.KNOWLEDGE_TYPE", "def_wiki", "GLIPKNOW.LAN_FEATURE_AGG_TYPE", aggregation)
    model = make_model(tmp_path, "glip_Swin_T_O365_GoldG", *options)
    images = tiny_detector.random_images((64, 96), (64, 96))
    categories = {7: "star_n", 3: "cup_n", 9: "unknown"}
    found = KnowledgeFinder(model, categories, per_text)(images, [Item(None, 0), Item(None, 1)])
    chunks = [[3, 7, 9]] if per_text == 3 else [[3, 7], [9]]
    for number in range(2):
        parts = [
            model(
                alone(images, number),
                captions=[[categories[label] for label in chunk]],
                positive_map={label: [place] for place, label in enumerate(chunk)},
            )[0]
            for chunk in chunks
        ]
        assert_same_boxes([found[number]], [cat_boxlist(parts)], atol=1e-5)


def test_captions_without_phrases_are_refused(model):
    item = sentence(model, "a cup", ["cup"], "first")
    item.target.extra_fields.pop("positive_map_eval")
    with pytest.raises(ValueError, match="captions without phrases"):
        CaptionFinder(model)(tiny_detector.random_images((64, 96)), [item])
