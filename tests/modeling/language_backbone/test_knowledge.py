"""One sentence per class instead of one caption."""

import random

import pytest
import torch
from tiny_detector import tiny_config

from maskrcnn_benchmark.modeling.language_backbone import TextFeatures
from maskrcnn_benchmark.modeling.language_backbone.knowledge import (
    Knowledge,
    classes_as_tokens,
    positive_map_of_classes,
)
from maskrcnn_benchmark.scenes.kinds import KINDS

ENTRIES = {
    "cup_n": {"clean_name": "cup", "def_wiki": "a small open container.", "gpt3": ["one", "two", "three"]},
    "dog_n": {"clean_name": "dog", "def_wiki": "", "gpt3": []},
    "star_n": {"clean_name": "star", "path": ["body", "thing"]},
    "tree_n": {},
    "moon_n": {"clean_name": "moon", "def_wiki": None, "gpt3": [" it shines at night"]},
}


@pytest.mark.parametrize(
    ("settings", "name", "sentence"),
    [
        ({}, "cup_n", "cup"),
        ({"source": "def_wiki"}, "cup_n", "cup: a small open container."),
        ({"source": "gpt3", "num_gpt3": 2}, "cup_n", "cup: one two"),
        ({"source": "def_wiki"}, "dog_n", "dog"),
        ({"source": "gpt3"}, "dog_n", "dog"),
        ({"source": "path"}, "star_n", "star: body thing"),
        ({"source": "def_wiki"}, "star_n", "star"),
        ({"source": "def_wiki"}, "tree_n", "tree_n"),
        ({"source": "def_wiki"}, "unknown", "unknown"),
        ({"source": "def_wiki"}, "", ""),
        ({"use_wiki_and_gpt3": True, "num_gpt3": 2}, "cup_n", "cup: a small open container. one two"),
        ({"use_wiki_and_gpt3": True}, "moon_n", "moon: it shines at night"),
        ({"use_wiki_and_gpt3": True}, "star_n", "star"),
        (
            {"use_wiki_and_gpt3": True, "num_gpt3": 2, "as_original": True},
            "cup_n",
            "cup: a small open container.one two",
        ),
        ({"use_wiki_and_gpt3": True, "as_original": True}, "moon_n", "moon_n"),
        ({"source": "def_wiki", "as_original": True}, "cup_n", "cup_n"),
    ],
)
def test_sentences(settings, name, sentence):
    assert Knowledge(ENTRIES, **settings).caption(name) == sentence


@pytest.mark.parametrize(
    ("limit", "present", "expected"),
    [
        (-1, ["dog_n"], {"cup_n": 1, "dog_n": 1, "star_n": 1, "tree_n": 1, "moon_n": 1}),
        (5, ["dog_n"], {"cup_n": 1, "dog_n": 1, "star_n": 1, "tree_n": 1, "moon_n": 1}),
    ],
)
def test_all_classes_of_a_batch(limit, present, expected):
    classes = Knowledge(ENTRIES, max_classes_in_training=limit).training_classes(present)
    assert {name: classes.count(name) for name in classes} == expected


def test_more_places_than_classes_repeat_some():
    classes = Knowledge(ENTRIES, max_classes_in_training=6).training_classes([])
    assert len(classes) == 6 and set(classes) == set(ENTRIES)


def test_fewer_places_keep_the_first_that_are_present():
    present = ["star_n", "dog_n", "star_n", "cup_n"]
    for _ in range(20):
        assert set(Knowledge(ENTRIES, max_classes_in_training=2).training_classes(present)) == {"star_n", "dog_n"}
        assert "dog_n" in Knowledge(ENTRIES, max_classes_in_training=3).training_classes(["dog_n"])
    drawn = {tuple(Knowledge(ENTRIES, max_classes_in_training=3).training_classes(["dog_n"])) for _ in range(50)}
    assert len(drawn) > 5 and all(len(set(classes)) == 3 for classes in drawn)


def test_the_draw_follows_the_seed():
    """A run is repeated by seeding Python's generator, as for every other draw of a training run."""
    knowledge = Knowledge({f"class {i}": {} for i in range(20)}, max_classes_in_training=10)
    draws = []
    for _ in range(2):
        random.seed(3)
        draws.append(knowledge.training_classes(["class 7"]))
    assert draws[0] == draws[1]


def test_positive_map():
    """Boxes of classes that found no place have an empty row; a repeated class counts at its last place."""
    positive_map = positive_map_of_classes([["b", "c"], [], ["a", "b"]], ["b", "a", "b"])
    assert positive_map.tolist() == [[0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    assert positive_map_of_classes([[], []], ["a"]).shape == (0, 2)


@pytest.mark.parametrize("aggregation", ["first", "mean"])
def test_classes_become_tokens(aggregation):
    torch.manual_seed(0)
    hidden, masks = torch.randn(3, 4, 5), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]])
    embedded = hidden * masks[..., None] + 1
    text = classes_as_tokens(TextFeatures(None, embedded, masks, hidden), aggregation, 2)
    assert text.masks.tolist() == [[1, 1, 0]] * 2 and text.masks.dtype == masks.dtype
    assert text.aggregate is None and text.mlm_labels is None
    for before, after in ((hidden, text.hidden), (embedded, text.embedded)):
        expected = before[:, 0]
        if aggregation == "mean":
            expected = torch.stack([before[i, : int(masks[i].sum())].mean(0) for i in range(3)])
        for image in range(2):
            torch.testing.assert_close(after[image], expected)


PARALLEL = ("GLIPKNOW.PARALLEL_LANGUAGE_INPUT", True)


def test_the_file_of_the_project_knows_every_kind_of_the_scenes(text_folder):
    options = (*PARALLEL, "GLIPKNOW.KNOWLEDGE_FILE", "knowledge/scenes.yaml", "GLIPKNOW.KNOWLEDGE_TYPE", "def_wiki")
    knowledge = Knowledge.from_config(tiny_config(text_folder, *options))
    assert set(knowledge.entries) == set(KINDS) and all(len(entry["gpt3"]) == 2 for entry in knowledge.entries.values())
    assert knowledge.caption("kite") == "kite: A kite is a toy that flies on a string."


def test_from_the_configuration(text_folder, tmp_path):
    assert Knowledge.from_config(tiny_config(text_folder)) is None
    path = tmp_path / "knowledge.yaml"
    path.write_text("cup_n: {clean_name: cup, gpt3: [one, two]}\n", encoding="utf-8")
    options = ("GLIPKNOW.KNOWLEDGE_FILE", str(path), "GLIPKNOW.KNOWLEDGE_TYPE", "gpt3", "GLIPKNOW.GPT3_NUM", 1)
    assert Knowledge.from_config(tiny_config(text_folder, *PARALLEL, *options)).caption("cup_n") == "cup: one"
    path.write_text("", encoding="utf-8")
    assert Knowledge.from_config(tiny_config(text_folder, *PARALLEL, *options)).caption("cup_n") == "cup_n"


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("wiki", "7: a number."),
        ("gpt3", "7: odd 3"),
        ("gpt3_and_wiki", "7: a number. odd 3"),
        ("wiki_and_gpt3", "7: a number. odd 3"),
        ("", "7"),
    ],
)
def test_kinds_of_knowledge(text_folder, tmp_path, kind, sentence):
    """Their short names; and what YAML reads as a number where a text is meant."""
    path = tmp_path / "knowledge.yaml"
    path.write_text("7: {clean_name: 7, def_wiki: a number., gpt3: [odd, null, 3]}\n", encoding="utf-8")
    options = (*PARALLEL, "GLIPKNOW.KNOWLEDGE_FILE", str(path), "GLIPKNOW.KNOWLEDGE_TYPE", kind)
    assert Knowledge.from_config(tiny_config(text_folder, *options)).caption("7") == sentence


def test_kind_of_knowledge_that_the_file_lacks(text_folder):
    options = (*PARALLEL, "GLIPKNOW.KNOWLEDGE_FILE", "knowledge/scenes.yaml", "GLIPKNOW.KNOWLEDGE_TYPE", "gpt4")
    with pytest.raises(ValueError, match="KNOWLEDGE_TYPE='gpt4': no class of knowledge/scenes.yaml .* def_wn, path_wn"):
        Knowledge.from_config(tiny_config(text_folder, *options))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (("MODEL.DYHEAD.FUSE_CONFIG.MLM_LOSS", True), ValueError, "excludes MODEL.DYHEAD.FUSE_CONFIG.MLM_LOSS"),
        (("DATASETS.ONE_HOT", True), ValueError, "excludes DATASETS.ONE_HOT"),
        (("MODEL.LANGUAGE_BACKBONE.MASK_SPECIAL", True), ValueError, "excludes MODEL.LANGUAGE_BACKBONE.MASK_SPECIAL"),
        (("GLIPKNOW.LAN_FEATURE_AGG_TYPE", "max"), ValueError, "'max'; known are first, mean"),
        (("GLIPKNOW.KNOWLEDGE_FILE", "nowhere.yaml"), FileNotFoundError, "'nowhere.yaml' does not exist"),
    ],
)
def test_settings_that_cannot_work(text_folder, options, error, message):
    with pytest.raises(error, match=message):
        Knowledge.from_config(tiny_config(text_folder, *PARALLEL, *options))


@pytest.mark.parametrize("content", ["- cup\n- dog\n", "cup: a small container\n"])
def test_files_that_are_no_table_of_classes(text_folder, tmp_path, content):
    path = tmp_path / "knowledge.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="knowledge.yaml.*class name"):
        Knowledge.from_config(tiny_config(text_folder, *PARALLEL, "GLIPKNOW.KNOWLEDGE_FILE", str(path)))
