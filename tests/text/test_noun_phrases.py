import json
import logging
from pathlib import Path

import pytest

from maskrcnn_benchmark.text import noun_phrases, pos_rules
from maskrcnn_benchmark.text.noun_phrases import (
    NounPhrase,
    chunk_noun_phrases,
    find_noun_phrases,
    remove_punctuation,
    split_words,
)

DEMO = json.loads((Path(__file__).parents[1] / "golden" / "text" / "demo.json").read_text(encoding="utf-8"))


def by_rules(caption):
    return [phrase.text for phrase in find_noun_phrases(caption, pos_rules.tag_words)]


@pytest.mark.parity
@pytest.mark.parametrize("record", DEMO["ner"], ids=lambda record: record["caption"])
def test_phrases_from_recorded_tags(record):
    def recorded(words):
        assert list(words) == [word for word, _ in record["tags"]]
        return [tag for _, tag in record["tags"]]

    found = find_noun_phrases(record["caption"], recorded)
    assert [phrase.text for phrase in found] == record["cleaned"] == record["entities"]
    # The original repeats the spans of a repeated phrase for each of its occurrences; here each occurs once.
    spans = [(phrase.begin, phrase.end) for phrase in found]
    assert spans == sorted({tuple(span) for [span] in record["tokens_positive"]})


@pytest.mark.parity
def test_phrases_by_rules_agree_with_the_recorded_ones():
    for record in DEMO["ner"]:
        assert by_rules(record["caption"]) == record["cleaned"]


@pytest.mark.parity
def test_remove_punctuation_as_recorded():
    records = DEMO["remove_punctuation"]
    assert {text: remove_punctuation(text) for text in records} == records


@pytest.mark.parametrize(
    ("caption", "phrases"),
    [
        ("sofa . remote . dog . person . car . sky . plane .", "sofa,remote,dog,person,car,sky,plane"),
        ("A car and a scarf near a car", "a car,a scarf,a car"),
        ("a man riding a brown horse next to two small dogs", "a man,a brown horse,small dogs"),
        ("the small red star left of the blue cup", "the small red star,the blue cup"),
        ("a striped orange mug is to the right of the gray kite.", "a striped orange mug,the gray kite"),
        ("under the white tree is an orange", "the white tree,an orange"),
        ("can you see a purple fish and the pink bell", "a purple fish,the pink bell"),
        ("a sleeping dog on the parking lot of a building", "a sleeping dog,the parking lot,a building"),
        ("parking meter, dining table and traffic light", "parking meter,dining table,traffic light"),
        ("a woman dressed in blue holds her umbrella", "a woman,umbrella"),
        ("the cat is black and very fluffy", "the cat"),
        ("The boy paints the wall while he walks slowly", "the boy,the wall"),
        ("a butterfly and a well-lit family photo", "a butterfly,a well-lit family photo"),
        ("there are 3.5 apples in the box", "apples,the box"),
        ("the man's hat", "the man,hat"),
        ("it's a dog that sits on the mat", "a dog,the mat"),
        ("find the cup", "the cup"),
        ("a bench on the left", "a bench,the left"),
        ("a red cup and the small blue one, lit up", "a red cup,the small blue one"),
        ("", ""),
        ("...", ""),
        ("running quickly", ""),
    ],
)
def test_phrases_by_rules(caption, phrases):
    assert by_rules(caption) == [phrase for phrase in phrases.split(",") if phrase]


@pytest.mark.parametrize(
    "caption", ["кошка на траве", "一只狗在草地上", "a 🐱 on the mat", "मेज पर किताब", "ไก่", "\u200d\ufe0f", "İ"]
)
def test_every_script_is_accepted(caption):
    for phrase in find_noun_phrases(caption, pos_rules.tag_words):
        assert 0 <= phrase.begin < phrase.end <= len(caption)
        assert remove_punctuation(caption[phrase.begin : phrase.end].lower()) == phrase.text


def test_an_emoji_is_a_noun():
    assert find_noun_phrases("a 🐱 on the mat", pos_rules.tag_words) == [("a 🐱", 0, 3), ("the mat", 7, 14)]


def test_words_and_their_places():
    words = split_words("The dog's 3.5-inch X-ray, (old).")
    assert [word.text for word in words] == ["the", "dog", "'s", "3.5", "-", "inch", "x-ray", ",", "(", "old", ")", "."]
    assert words[6] == ("x-ray", 19, 24)


@pytest.mark.parametrize(
    ("tags", "chunks"),
    [
        ("DT JJ NN", [(0, 2)]),
        ("DT DT JJR NNS NNP", [(1, 4)]),
        ("JJ IN NN", [(2, 2)]),
        ("NN DT NN", [(0, 0), (1, 2)]),
        ("NN JJ NN", [(0, 0), (1, 2)]),
        ("DT JJ", []),
        ("", []),
    ],
)
def test_chunks(tags, chunks):
    assert chunk_noun_phrases(tags.split()) == chunks


@pytest.fixture
def fresh_tagger():
    noun_phrases._default_tagger.cache_clear()
    yield
    noun_phrases._default_tagger.cache_clear()


def test_nltk_tags_where_its_data_exist(monkeypatch, fresh_tagger, caplog):
    import nltk

    tags = {"the": "DT", "flying": "VBG", "plane": "NN"}
    monkeypatch.setattr(nltk, "pos_tag", lambda words: [(word, tags.get(word, "IN")) for word in words])
    assert find_noun_phrases("The flying plane") == [NounPhrase("plane", 11, 16)]
    assert not caplog.records


def test_missing_nltk_data_warn_once(monkeypatch, fresh_tagger, caplog):
    import nltk

    def missing(words):
        raise LookupError("Resource not found")

    monkeypatch.setattr(nltk, "pos_tag", missing)
    caplog.set_level(logging.WARNING)
    assert find_noun_phrases("a cat") == [NounPhrase("a cat", 0, 5)]
    assert find_noun_phrases("a dog") == [NounPhrase("a dog", 0, 5)]
    assert [record.message for record in caplog.records] == [
        "nltk's tagger data are not installed; noun phrases come from simple rules. "
        "For nltk's, run: python -m nltk.downloader averaged_perceptron_tagger_eng"
    ]


def test_missing_nltk_is_no_error(monkeypatch, fresh_tagger, caplog):
    monkeypatch.setitem(__import__("sys").modules, "nltk", None)
    assert find_noun_phrases("a cat") == [NounPhrase("a cat", 0, 5)]
    assert "nltk is not installed" in caplog.text
