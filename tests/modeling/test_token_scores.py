import numpy as np
import pytest
import torch

from maskrcnn_benchmark.modeling.postprocess.token_scores import aggregate_token_scores, build_token_map
from maskrcnn_benchmark.modeling.rpn.inference import convert_grounding_to_od_logits, convert_grounding_to_od_logits_v2

POSITIVE_MAP = {4: [1, 2, 5], 2: [3], 90: [0, 0, 7]}


def by_definition(scores, positive_map, how):
    columns = []
    for label in sorted(positive_map):
        tokens = scores[:, :, positive_map[label]]
        if how == "MEAN":
            columns.append(tokens.mean(-1))
        elif how == "MAX":
            columns.append(tokens.amax(-1))
        else:
            columns.append(tokens.prod(-1) ** (1 / tokens.shape[-1]))
    return torch.stack(columns, dim=-1)


@pytest.mark.parametrize("how", ["MEAN", "MAX", "POWER"])
def test_equals_the_definition(how, device):
    scores = torch.rand(2, 6, 9, device=device)
    token_map = build_token_map(POSITIVE_MAP, 9, aggregation=how, device=device)
    assert token_map.labels.tolist() == [[2, 4, 90]]
    torch.testing.assert_close(aggregate_token_scores(scores, token_map, how), by_definition(scores, POSITIVE_MAP, how))


@pytest.mark.parametrize("how", ["MEAN", "MAX", "POWER"])
def test_every_image_can_have_a_map_of_its_own(how, device):
    scores = torch.rand(3, 6, 9, device=device)
    maps = [POSITIVE_MAP, {7: [8]}, {}]
    token_map = build_token_map(maps, 9, aggregation=how, device=device)
    actual = aggregate_token_scores(scores, token_map, how)
    assert token_map.labels.tolist() == [[2, 4, 90], [7, 0, 0], [0, 0, 0]]
    torch.testing.assert_close(actual[:1], by_definition(scores[:1], POSITIVE_MAP, how))
    torch.testing.assert_close(actual[1, :, 0], scores[1, :, 8])
    assert actual[1, :, 1:].eq(0).all() and actual[2].eq(0).all()


def test_one_hot_takes_the_first_tokens():
    scores = torch.rand(1, 6, 4)
    token_map = build_token_map({11: [2], 12: [3], 13: []}, 4, aggregation="ONEHOT")
    assert token_map.labels.tolist() == [[1, 2, 3]]
    torch.testing.assert_close(aggregate_token_scores(scores, token_map, "ONEHOT"), scores[..., :3])
    assert build_token_map({i: [0] for i in range(1, 9)}, 4, aggregation="ONEHOT").labels.tolist() == [[1, 2, 3, 4]]


def test_labels_without_tokens_are_left_out_and_a_number_is_one_token():
    token_map = build_token_map({7: (0,), 1: [], 2: 3, 5: torch.tensor([1]), np.int64(6): np.int64(2)}, 4)
    assert token_map.labels.tolist() == [[2, 5, 6, 7]] and token_map.tokens.tolist() == [[[3], [1], [2], [0]]]
    token_map = build_token_map({1: torch.tensor(3), 2: np.array(1), 3: [torch.tensor(2)], 4: np.array([], int)}, 4)
    assert token_map.labels.tolist() == [[1, 2, 3]] and token_map.tokens.tolist() == [[[3], [1], [2]]]


@pytest.mark.parametrize("empty", [None, {}, {1: []}, [{}, {}], [None, {}]])
def test_no_labels_give_no_columns(empty):
    token_map = build_token_map(empty, 4)
    for how in ("MEAN", "MAX", "POWER"):
        assert aggregate_token_scores(torch.rand(2, 6, 4), token_map, how).shape == (2, 6, 0)


def test_a_vanished_token_makes_the_geometric_mean_zero():
    token_map = build_token_map({1: [0, 1]}, 2, aggregation="POWER")
    assert aggregate_token_scores(torch.tensor([[[0.0, 0.9]]]), token_map, "POWER").item() == 0


@pytest.mark.parametrize(
    ("positive_map", "message"),
    [
        ({1: [4]}, "label 1 has token position 4, but the text has 4 positions"),
        ({3: [-1]}, "label 3 has token position -1"),
        ({0: [1]}, "counted from 1, got 0"),
        ({"1": [1], 2: [1]}, "must be integers, got '1'"),
        ({1: ["1"]}, r"label 1 must have integers as token positions, got \['1'\]"),
        ({2: [[1, 2]]}, r"label 2 must have integers as token positions, got \[\[1, 2\]\]"),
        ({2: None}, "label 2 must have integers as token positions, got None"),
        ([{1: [4]}], "label 1 has token position 4"),
        (torch.zeros(2, 4), "must be a dict of labels.*got Tensor"),
        ([[1, 2]], "must be a dict of labels.*got list"),
    ],
)
def test_bad_maps_are_named(positive_map, message):
    with pytest.raises(ValueError, match=message):
        build_token_map(positive_map, 4)


def test_unknown_aggregations_are_named_with_the_known():
    with pytest.raises(ValueError, match="'SUM'; known are MEAN, MAX, POWER, ONEHOT"):
        build_token_map({}, 4, aggregation="SUM")


def test_half_precision_scores_are_aggregated_in_single():
    scores = torch.rand(1, 3, 4)
    token_map = build_token_map({1: [0, 1, 2]}, 4)
    with torch.autocast("cpu", torch.bfloat16):
        actual = aggregate_token_scores(scores, token_map, "MEAN")
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual[..., 0], scores[..., :3].mean(-1))


def test_historical_functions_put_labels_into_columns_and_grow_where_they_must():
    scores = torch.rand(1, 5, 9)
    expected = by_definition(scores, POSITIVE_MAP, "MEAN")
    wide = convert_grounding_to_od_logits(scores, torch.zeros(1, 5, 80), {4: [1, 2, 5], 2: [3]}, "MEAN")
    assert wide.shape == (1, 5, 80)
    torch.testing.assert_close(wide[..., [1, 3]], expected[..., :2])
    assert wide.sum().item() == pytest.approx(expected[..., :2].sum().item(), rel=1e-5)
    assert convert_grounding_to_od_logits(scores, torch.zeros(1, 5, 80), None).eq(0).all()
    wide = convert_grounding_to_od_logits_v2(scores, 80, POSITIVE_MAP, "MEAN", disable_minus_one=False)
    assert wide.shape == (1, 5, 90)
    torch.testing.assert_close(wide[..., [1, 3, 89]], expected)
    wide = convert_grounding_to_od_logits_v2(scores, 3000, POSITIVE_MAP, "MEAN")
    assert wide.shape == (1, 5, 3000)
    torch.testing.assert_close(wide[..., [2, 4, 90]], expected)


def test_historical_functions_return_the_first_tokens_for_one_hot():
    scores = torch.rand(2, 5, 9)
    found = convert_grounding_to_od_logits(scores, torch.zeros(2, 5, 80), {7: [4], 8: [5], 9: []}, "ONEHOT")
    torch.testing.assert_close(found, scores[..., :3], rtol=0, atol=0)
    found = convert_grounding_to_od_logits_v2(scores, 3000, {7: [4]}, "ONEHOT", disable_minus_one=False)
    torch.testing.assert_close(found, scores[..., :1], rtol=0, atol=0)
    assert convert_grounding_to_od_logits(scores, torch.zeros(2, 5, 80), None, "ONEHOT").shape == (2, 5, 80)
