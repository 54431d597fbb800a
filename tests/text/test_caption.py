import pytest

from maskrcnn_benchmark.text import noun_phrases
from maskrcnn_benchmark.text.caption import prompt_from_caption, prompts_from_caption
from maskrcnn_benchmark.text.noun_phrases import NounPhrase


@pytest.fixture(autouse=True)
def rules_only(monkeypatch):
    from maskrcnn_benchmark.text.pos_rules import tag_words

    monkeypatch.setattr(noun_phrases, "_default_tagger", lambda: tag_words)


@pytest.mark.parity
def test_the_caption_of_the_demo(bert_tokenizer):
    prompt = prompt_from_caption("bobble heads on top of the shelf", bert_tokenizer)
    ids = bert_tokenizer(prompt.caption)["input_ids"]
    assert ids == [101, 3960, 3468, 4641, 2006, 2327, 1997, 1996, 11142, 102]
    assert prompt.phrases == {1: "bobble heads", 2: "top", 3: "the shelf"}
    assert prompt.spans == {1: [(0, 12)], 2: [(16, 19)], 3: [(23, 32)]}
    assert prompt.label_to_tokens == {1: [1, 2, 3], 2: [5], 3: [7, 8]}


def test_a_repeated_phrase_is_a_label_for_each_place(bert_tokenizer):
    prompt = prompt_from_caption("A car and a scarf near a car", bert_tokenizer)
    assert prompt.phrases == {1: "a car", 2: "a scarf", 3: "a car"}
    assert prompt.label_to_tokens == {1: [1, 2], 2: [4, 5], 3: [7, 8]}


def test_given_phrases(bert_tokenizer):
    caption = "A red dog sees a red dog and a cat"
    prompt = prompt_from_caption(
        caption, bert_tokenizer, phrases=["red dog", "cat", (6, 9), "Red Dog", NounPhrase("it", 0, 9)]
    )
    assert prompt.phrases == {1: "red dog", 2: "cat", 3: "dog", 4: "Red Dog", 5: "it"}
    assert prompt.label_to_tokens == {1: [2, 3], 2: [10], 3: [3], 4: [6, 7], 5: [1, 2, 3]}


@pytest.mark.parametrize(
    ("phrases", "message"),
    [
        (["cart"], "phrase 'cart' does not occur"),
        (["car", "car"], r"phrase 'car' does not occur \(so often\)"),
        (["(c.*"], "does not occur"),
        ([(3, 99)], "characters 3 to 99 lie outside the caption of 12"),
        ([(4, 4)], "characters 4 to 4"),
        ([], "at least one entry"),
        ("car", "must be a list"),
    ],
)
def test_wrong_phrases(bert_tokenizer, phrases, message):
    with pytest.raises(ValueError, match=message):
        prompt_from_caption("a car, carts", bert_tokenizer, phrases=phrases)


@pytest.mark.parametrize("caption", ["", "  ", ". , ;", "?!", "\u200b"])
def test_empty_captions(bert_tokenizer, caption):
    with pytest.raises(ValueError, match="holds no word"):
        prompt_from_caption(caption, bert_tokenizer)


def test_a_caption_that_is_no_unicode(bert_tokenizer):
    with pytest.raises(ValueError, match="is not a valid Unicode text"):
        prompt_from_caption("a caf\udce9", bert_tokenizer)


@pytest.mark.parametrize("caption", [" running quickly!", "बैठो 🐱 หมา"])
def test_a_caption_without_noun_phrase_is_one_phrase(bert_tokenizer, caplog, monkeypatch, caption):
    monkeypatch.setattr(noun_phrases, "_default_tagger", lambda: lambda words: ["X"] * len(words))
    prompt = prompt_from_caption(caption, bert_tokenizer)
    assert prompt.spans == {1: [(len(caption) - len(caption.lstrip()), len(caption))]}
    assert prompt.label_to_tokens[1]
    assert "all of it is taken as one phrase" in caplog.text


def test_phrases_without_a_token(bert_tokenizer, caplog):
    prompt = prompt_from_caption("a cat \u200b", bert_tokenizer, phrases=["cat", (6, 7)])
    assert prompt.label_to_tokens == {1: [2]}
    assert "no token stands for these phrases, they are never detected: '\\u200b'" in caplog.text
    with pytest.raises(ValueError, match="no token for any phrase"):
        prompt_from_caption("\ufffd", bert_tokenizer)


def test_long_captions_are_cut_after_sentences(bert_tokenizer, caplog):
    sentences = [
        f"A man with hat {n} rides the brown horse" + ("." if n % 2 else ", the dog follows.") for n in range(60)
    ]
    caption = " ".join(sentences)
    prompts = prompts_from_caption(caption, bert_tokenizer)
    counts = [len(bert_tokenizer(prompt.caption)["input_ids"]) for prompt in prompts]
    assert max(counts) <= 256
    assert min(counts[:-1]) > 230
    assert all(prompt.caption.endswith(".") for prompt in prompts)
    assert " ".join(prompt.caption for prompt in prompts) == caption
    labels = [label for prompt in prompts for label in prompt.label_to_tokens]
    assert labels == list(range(1, len(labels) + 1))
    for prompt in prompts:
        ids = bert_tokenizer(prompt.caption)["input_ids"]
        for label, positions in prompt.label_to_tokens.items():
            [(begin, end)] = prompt.spans[label]
            assert prompt.caption[begin:end].lower() == prompt.phrases[label]
            assert bert_tokenizer.decode([ids[p] for p in positions]) == prompt.phrases[label]
    assert f"is cut into {len(prompts)}" in caplog.text
    with pytest.raises(ValueError, match="one prompt holds 256"):
        prompt_from_caption(caption, bert_tokenizer)


def test_cuts_never_hit_a_phrase(bert_tokenizer):
    caption = "near " * 8 + "an old wooden chair of the king " * 4
    prompts = prompts_from_caption(caption, bert_tokenizer, max_tokens=9)
    assert [phrase for prompt in prompts for phrase in prompt.phrases.values()] == [
        "an old wooden chair",
        "the king",
    ] * 4
    assert all(len(bert_tokenizer(prompt.caption)["input_ids"]) <= 9 for prompt in prompts)


def test_a_phrase_that_alone_is_too_long_is_named(bert_tokenizer):
    with pytest.raises(ValueError, match=r"phrase 'a red red .* is too long, a prompt holds 254 tokens"):
        prompts_from_caption("look at a " + "red " * 300 + "car", bert_tokenizer)
