import pytest
import torch

from maskrcnn_benchmark.text.positive_map import (
    create_greenlight_map,
    create_positive_map,
    label_to_tokens,
    od_label_map,
)

SHOES = "arctic . traffic light. flip-flop "


@pytest.mark.parity
def test_positive_maps_of_captions(bert_tokenizer, tokenization):
    for record in tokenization["free_captions"]:
        encoding = bert_tokenizer(record["caption"])
        assert encoding["input_ids"] == record["input_ids"]
        positive_map = create_positive_map(encoding, record["tokens_positive"])
        assert positive_map.shape == (len(record["tokens_positive"]), 256)
        assert [row.nonzero().flatten().tolist() for row in positive_map] == record["nonzero"]
        torch.testing.assert_close(positive_map.amax(-1), torch.tensor(record["value"]), rtol=0, atol=1e-7)
        assert label_to_tokens(positive_map) == {int(k): v for k, v in record["label_to_token_plus1"].items()}


@pytest.mark.parity
def test_greenlight_maps(bert_tokenizer, tokenization):
    for record in tokenization["free_captions"]:
        encoding = bert_tokenizer(record["caption"], max_length=256, truncation=True)
        first_two = [spans[0] for spans in record["tokens_positive"][:2]]
        expected = torch.zeros(256)
        for position, value in record["greenlight_first_two_spans_nonzero"]:
            expected[position] = value
        assert torch.equal(create_greenlight_map(encoding, first_two), expected)
        sentinel = create_greenlight_map(encoding, [*first_two, (-1, -1, -1)])
        assert sentinel.unique().tolist() == record["greenlight_with_(-1,-1,-1)_unique"]


@pytest.mark.parity
def test_spans_beyond_the_last_token_have_no_tokens(bert_tokenizer, tokenization):
    record = tokenization["overflow"]
    truncated = bert_tokenizer(record["caption"], max_length=256, truncation=True)
    assert len(truncated["input_ids"]) == record["n_ids"]
    assert truncated["input_ids"][-3:] == record["last_ids"]
    whole = bert_tokenizer(record["caption"], verbose=False)
    for encoding, expected in ((truncated, record["nonzero"]), (whole, record["untruncated_nonzero"])):
        rows = create_positive_map(encoding, record["tokens_positive"])
        assert [row.nonzero().flatten().tolist() for row in rows] == expected


@pytest.mark.parity
def test_names_with_a_trailing_blank(bert_tokenizer):
    encoding = bert_tokenizer(SHOES)
    rows = create_positive_map(encoding, [[(0, 7)], [(9, 22)], [(24, 34)], [(0, 6), (9, 16)]])
    assert list(label_to_tokens(rows, plus=0).values()) == [[1], [3, 4], [6, 7, 8], [1, 3]]
    assert rows.amax(-1).tolist() == pytest.approx([0.999999, 0.4999998, 0.3333332, 0.4999998], abs=1e-7)
    greenlight = create_greenlight_map(encoding, [(9, 22), (0, 7)])
    assert greenlight.nonzero().flatten().tolist() == [1, 3, 4]
    od_labels = od_label_map(encoding, {5: (9, 22), 2: (0, 7)})
    assert {int(i): float(od_labels[i]) for i in (od_labels >= 0).nonzero()} == {1: 2.0, 3: 5.0, 4: 5.0}
    assert od_labels.unique().tolist() == [-1.0, 2.0, 5.0]


@pytest.mark.parity
def test_a_phrase_cut_by_truncation_is_dropped_whole(bert_tokenizer):
    phrases = [f"traffic light number {n}" for n in range(100)]
    spans, caption = [], ""
    for phrase in phrases:
        caption += ". " if caption else ""
        spans.append([(len(caption), len(caption) + len(phrase))])
        caption += phrase
    tokens = label_to_tokens(
        create_positive_map(bert_tokenizer(caption, max_length=256, truncation=True), spans), plus=0
    )
    assert tokens[50] == [251, 252, 253, 254]
    assert all(tokens[n] == [] for n in range(51, 100))


def test_maps_without_rows_and_of_other_lengths(bert_tokenizer):
    encoding = bert_tokenizer("a cat")
    assert create_positive_map(encoding, []).shape == (0, 256)
    assert create_positive_map(encoding, [[]], max_tokens=8).sum() == 0
    assert label_to_tokens(create_positive_map(encoding, [[(0, 5)]], max_tokens=2)) == {1: [1]}
