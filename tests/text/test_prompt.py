import logging
import time

import pytest

from maskrcnn_benchmark.text.prompt import build_prompts, prompt_from_text


def recorded_map(record):
    return {int(label): tokens for label, tokens in record.items()}


@pytest.mark.parity
@pytest.mark.parametrize("name", ["coco80", "coco80_chunk40", "made_up_100_chunk40"])
def test_captions_and_maps_as_recorded(bert_tokenizer, tokenization, name):
    record = tokenization[name]
    labels = sorted(int(label) for label in record["categories"])
    names = [record["categories"][str(label)] for label in labels]
    prompts = build_prompts(
        names,
        bert_tokenizer,
        labels=labels,
        separation=record["SEPARATION_TOKENS"],
        chunk_size=record["CHUNKED_EVALUATION"],
        verbatim=True,
    )
    assert [prompt.caption for prompt in prompts] == [query["caption"] for query in record["queries"]]
    for prompt, query in zip(prompts, record["queries"], strict=True):
        assert bert_tokenizer(prompt.caption)["input_ids"] == query["input_ids"]
        assert prompt.label_to_tokens == recorded_map(query["positive_map_label_to_token"])
        for label, [(begin, end)] in prompt.spans.items():
            assert prompt.phrases[label] == " ".join(prompt.caption[begin:end].split())


@pytest.mark.parity
def test_separation_without_points(bert_tokenizer, tokenization):
    record = tokenization["sep_space"]
    [prompt] = build_prompts(["hair_drier", "dog_(x)", "wine glass"], bert_tokenizer, separation=" ", verbatim=True)
    assert prompt.caption == record["caption"]
    assert prompt.label_to_tokens == recorded_map(record["map"])


@pytest.mark.parity
def test_extra_words_belong_to_no_label(bert_tokenizer, tokenization):
    record = tokenization["additional_labels"]
    [prompt] = build_prompts(["cat", "dog"], bert_tokenizer, labels=record["labels"], extra=record["additional"])
    assert prompt.caption == record["caption"]
    assert prompt.label_to_tokens == recorded_map(record["map"])


@pytest.mark.parity
def test_caption_prompt(bert_tokenizer, tokenization):
    record = tokenization["caption_prompt"]
    [prompt] = build_prompts(["penguin", "puffin"], bert_tokenizer, caption_prompt=record["prompt"])
    assert prompt.caption == record["caption"]
    assert prompt.label_to_tokens == recorded_map(record["map"])


@pytest.mark.parity
def test_aquarium_prompt_maps_names_only(bert_tokenizer):
    parts = [
        (" ", "fish", ""),
        ("", "jellyfish", ""),
        ("", "penguin", " , which is black and white"),
        ("", "puffin", " with orange beaks "),
        ("", "shark", ""),
        ("", "starfish", ""),
        ("", "stingray", " which is flat and round"),
    ]
    caption_prompt = [{"prefix": a, "name": b, "suffix": c} for a, b, c in parts]
    [prompt] = build_prompts([b for _, b, _ in parts], bert_tokenizer, caption_prompt=caption_prompt)
    spans = [(1, 5), (7, 16), (18, 25), (54, 60), (81, 86), (88, 96), (98, 106)]
    assert list(prompt.spans.values()) == [[span] for span in spans]
    assert list(prompt.label_to_tokens.values()) == [[1], [3, 4], [6], [14, 15], [21], [23, 24], [26, 27]]


def test_caption_prompt_is_indexed_by_class_not_by_place_in_the_chunk(bert_tokenizer):
    names = ["a", "b", "c"]
    caption_prompt = [{"prefix": "", "name": name, "suffix": f" {place}"} for place, name in enumerate(names)]
    prompts = build_prompts(names, bert_tokenizer, caption_prompt=caption_prompt, chunk_size=2)
    assert [prompt.caption for prompt in prompts] == ["a 0. b 1", "c 2"]


@pytest.mark.parametrize("max_tokens", [16, 64, 256])
def test_long_lists_fill_prompts_greedily(bert_tokenizer, max_tokens):
    names = [f"striped snow plow {n}" if n % 3 else f"cup {n}" for n in range(200)]
    prompts = build_prompts(names, bert_tokenizer, max_tokens=max_tokens)
    counts = [len(bert_tokenizer(prompt.caption)["input_ids"]) for prompt in prompts]
    assert max(counts) <= max_tokens
    for prompt, following in zip(prompts, prompts[1:], strict=False):
        longer = f"{prompt.caption}. {next(iter(following.phrases.values()))}"
        assert len(bert_tokenizer(longer)["input_ids"]) > max_tokens
    labels = [label for prompt in prompts for label in prompt.label_to_tokens]
    assert labels == list(range(1, 201))
    for prompt in prompts:
        ids = bert_tokenizer(prompt.caption)["input_ids"]
        for label, positions in prompt.label_to_tokens.items():
            assert bert_tokenizer.decode([ids[p] for p in positions]) == names[label - 1]


def test_extra_words_count(bert_tokenizer):
    names = [f"cup {n}" for n in range(40)]
    prompts = build_prompts(names, bert_tokenizer, max_tokens=20, extra=["thing", "stuff"])
    assert max(len(bert_tokenizer(prompt.caption)["input_ids"]) for prompt in prompts) <= 20
    assert all(prompt.caption.endswith(". thing. stuff") for prompt in prompts)


def test_fixed_chunks_are_split_only_where_too_long(bert_tokenizer):
    names = ["cat", "dog"] + ["word " * 6 + str(n) for n in range(2)]
    prompts = build_prompts(names, bert_tokenizer, max_tokens=10, chunk_size=2)
    assert [list(prompt.phrases) for prompt in prompts] == [[1, 2], [3], [4]]


def test_a_class_that_alone_is_too_long_is_named(bert_tokenizer):
    with pytest.raises(ValueError, match=r"class 'very very .* alone takes 301 tokens, but a prompt holds 254"):
        build_prompts(["cat", "very " * 300 + "dog"], bert_tokenizer)
    [prompt] = build_prompts(["very " * 253 + "old"], bert_tokenizer)
    assert prompt.label_to_tokens == {1: list(range(1, 255))}


def test_tokenizers_whose_counts_do_not_add_up(bert_tokenizer):
    class Greedy:
        """Costs one more token for every name in a caption than the names alone do."""

        unk_token_id = None

        def __call__(self, texts, add_special_tokens=True, **kwargs):
            encoding = bert_tokenizer(texts, add_special_tokens=add_special_tokens, **kwargs)
            if add_special_tokens:
                encoding["input_ids"] = [
                    ids + [0] * text.count(".") for ids, text in zip(encoding["input_ids"], texts, strict=True)
                ]
            return encoding

        def num_special_tokens_to_add(self, pair):
            return bert_tokenizer.num_special_tokens_to_add(pair)

    prompts = build_prompts(["cat", "dog", "cow", "pig"], Greedy(), max_tokens=9)
    assert [prompt.caption for prompt in prompts] == ["cat. dog", "cow. pig"]
    assert prompts[1].label_to_tokens == {3: [1], 4: [3]}
    with pytest.raises(ValueError, match=r"'a\.b' alone takes 6 tokens, a prompt holds 5"):
        build_prompts(["a.b"], Greedy(), max_tokens=5)


def test_five_thousand_classes_are_fast(bert_tokenizer):
    names = [f"striped thing number {n}" for n in range(5000)]
    begin = time.process_time()  # others may use the machine as well
    prompts = build_prompts(names, bert_tokenizer)
    assert time.process_time() - begin < 2.0
    assert sum(len(prompt.label_to_tokens) for prompt in prompts) == 5000


def test_repeated_classes_keep_the_first_label(bert_tokenizer, caplog):
    [prompt] = build_prompts(["cat", "traffic_light", "Cat", "traffic light", "dog"], bert_tokenizer)
    assert prompt.caption == "cat. traffic light. dog"
    assert prompt.phrases == {1: "cat", 2: "traffic light", 5: "dog"}
    assert "repeated class names, the first label of each is kept: 'Cat', 'traffic light'" in caplog.text


def test_verbatim_keeps_repeated_and_blank_names(bert_tokenizer):
    [prompt] = build_prompts(["  ", "bow_(weapon)", "bow_(ribbon)"], bert_tokenizer, verbatim=True)
    assert prompt.caption == " . bow . bow "
    assert prompt.label_to_tokens == {2: [2], 3: [4]}


def test_blank_names_are_skipped(bert_tokenizer, caplog):
    [prompt] = build_prompts(["cat", " ", "(only)", "dog"], bert_tokenizer)
    assert (prompt.caption, prompt.phrases) == ("cat. dog", {1: "cat", 4: "dog"})
    assert "2 blank class names skipped" in caplog.text


@pytest.mark.parametrize("names", [["", " "], ["."], ["(x)"]])
def test_only_blank_names(bert_tokenizer, names):
    with pytest.raises(ValueError, match="names no class"):
        build_prompts(names, bert_tokenizer)


def test_a_class_without_a_token_is_named(bert_tokenizer, caplog):
    [prompt] = build_prompts(["cat", "\ufffd", "dog"], bert_tokenizer)
    assert prompt.label_to_tokens == {1: [1], 3: [4]}
    assert "no token stands for these classes, they are never detected: '�'" in caplog.text
    with pytest.raises(ValueError, match="no token for any class"):
        build_prompts(["\ufffd"], bert_tokenizer)


def test_non_latin_names_and_emoji(bert_tokenizer, caplog):
    [prompt] = build_prompts(["кошка", "猫", "🐱", "👩‍🚀 astronaut", "قطة"], bert_tokenizer)
    assert set(prompt.label_to_tokens) == {1, 2, 3, 4, 5}
    assert "the vocabulary does not know these classes" in caplog.text
    assert "'🐱'" in caplog.text
    assert "astronaut" not in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": []}, "prompt is empty"),
        ({"names": ["(cat)", "..."]}, r"names no class, only '\(cat\)', '...'"),
        ({"names": ["cat", "\udc80"]}, r"'\\udc80' is not a valid Unicode text"),
        ({"names": "cat. dog"}, "must be a list, not the text 'cat. dog'"),
        ({"names": ["cat", None]}, "class name None is not a text"),
        ({"names": ["cat", "dog"], "labels": [1]}, "2 class names need as many different labels, not 1"),
        ({"names": ["cat", "dog"], "labels": [1, 1]}, "2 class names need as many different labels, not 1"),
        ({"names": ["cat"], "caption_prompt": []}, "caption prompt has 0 entries for 1 class names"),
        ({"names": ["cat"], "caption_prompt": [{"name": "x"}]}, "entry 0 of the caption prompt lacks prefix, suffix"),
    ],
)
def test_bad_arguments(bert_tokenizer, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_prompts(tokenizer=bert_tokenizer, **arguments)


def test_prompt_from_text(bert_tokenizer, caplog):
    caplog.set_level(logging.WARNING)
    [prompt] = prompt_from_text("person. traffic light.", bert_tokenizer)
    assert prompt.caption == "person. traffic light"
    assert prompt.label_to_tokens == {1: [1], 2: [3, 4]}
    assert prompt.phrases == {1: "person", 2: "traffic light"}
    assert not caplog.records
