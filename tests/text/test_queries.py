from types import SimpleNamespace

import pytest

from maskrcnn_benchmark.text import queries


def config(tokenizer_folder, chunk=-1, **datasets):
    defaults = {
        "SEPARATION_TOKENS": ". ",
        "USE_CAPTION_PROMPT": False,
        "CAPTION_PROMPT": None,
        "USE_SUPRESS_QUERY": False,
        "SUPRESS_QUERY": None,
    }
    return SimpleNamespace(
        TEST=SimpleNamespace(CHUNKED_EVALUATION=chunk),
        DATASETS=SimpleNamespace(**{**defaults, **datasets}),
        MODEL=SimpleNamespace(LANGUAGE_BACKBONE=SimpleNamespace(TOKENIZER_TYPE=tokenizer_folder, MAX_QUERY_LEN=256)),
    )


def dataset(categories):
    return SimpleNamespace(categories=lambda: categories)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["coco80", "coco80_chunk40", "made_up_100_chunk40"])
def test_queries_and_maps_as_recorded(bert_vocabulary, tokenization, name):
    record = tokenization[name]
    categories = {int(label): text for label, text in record["categories"].items()}
    cfg = config(bert_vocabulary, record["CHUNKED_EVALUATION"], SEPARATION_TOKENS=record["SEPARATION_TOKENS"])
    captions, maps = queries.create_queries_and_maps_from_dataset(dataset(categories), cfg)
    assert captions == [query["caption"] for query in record["queries"]]
    for found, query in zip(maps, record["queries"], strict=True):
        assert found == {int(label): tokens for label, tokens in query["positive_map_label_to_token"].items()}


@pytest.mark.parity
def test_additional_labels_as_recorded(bert_vocabulary, bert_tokenizer, tokenization):
    record = tokenization["additional_labels"]
    expected = (record["caption"], {int(label): tokens for label, tokens in record["map"].items()})
    arguments = (record["labels"], ["cat", "dog"])
    assert queries.create_queries_and_maps(*arguments, record["additional"], config(bert_vocabulary)) == expected
    cfg = config("no such folder", USE_SUPRESS_QUERY=True, SUPRESS_QUERY=record["additional"])
    found = queries.create_queries_and_maps_from_dataset(
        dataset(dict(zip(*arguments, strict=True))), cfg, tokenizer=bert_tokenizer
    )
    assert found == ([expected[0]], [expected[1]])


@pytest.mark.parity
@pytest.mark.parametrize("as_file", [False, True])
def test_caption_prompt_as_recorded(bert_vocabulary, tokenization, tmp_path, as_file):
    record = tokenization["caption_prompt"]
    prompt = record["prompt"]
    if as_file:
        prompt = tmp_path / "prompt.yaml"
        prompt.write_text(str(record["prompt"]), encoding="utf-8")
    cfg = config(bert_vocabulary, USE_CAPTION_PROMPT=True, CAPTION_PROMPT=str(prompt) if as_file else prompt)
    caption, found = queries.create_queries_and_maps([1, 2], ["penguin", "puffin"], None, cfg)
    assert caption == record["caption"]
    assert found == {int(label): tokens for label, tokens in record["map"].items()}


def test_a_single_suppressed_word(bert_vocabulary):
    cfg = config(bert_vocabulary, USE_SUPRESS_QUERY=True, SUPRESS_QUERY="thing")
    assert queries.create_queries_and_maps_from_dataset(dataset({1: "cat"}), cfg) == (["cat. thing"], [{1: [1]}])


def test_caption_prompt_files_that_cannot_be_used(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.yaml' cannot be read: No such file"):
        queries.read_caption_prompt(str(tmp_path / "absent.yaml"))
    (tmp_path / "map.yaml").write_text("a: 1")
    with pytest.raises(ValueError, match="holds no list"):
        queries.read_caption_prompt(str(tmp_path / "map.yaml"))


def test_more_classes_than_fit(bert_vocabulary):
    names = [f"striped cup {n}" for n in range(100)]
    labels = list(range(1, 101))
    cfg = config(bert_vocabulary)
    with pytest.raises(ValueError, match="100 class names take 2 captions of 256 tokens, not one"):
        queries.create_queries_and_maps(labels, names, None, cfg)
    _, maps = queries.create_queries_and_maps_from_dataset(dataset(dict(zip(labels, names, strict=True))), cfg)
    assert [label for found in maps for label in found] == labels


def test_positive_dict(bert_tokenizer):
    encoding = bert_tokenizer("cat. traffic light.  ")
    tokens, labels = queries.create_positive_dict(encoding, [(0, 3), (5, 18), (20, 21)], [7, 9, 11])
    assert tokens == {1: 7, 3: 9, 4: 9}
    assert labels == {7: [1], 9: [3, 4]}


def test_positive_dict_of_a_label_with_several_spans(bert_tokenizer):
    encoding = bert_tokenizer("cat. traffic light.")
    tokens, labels = queries.create_positive_dict(encoding, [(0, 3), (5, 18)], [7, 7])
    assert tokens == {1: 7, 3: 7, 4: 7} and labels == {7: [1, 3, 4]}
