import random

import pytest
import torch

from maskrcnn_benchmark.text.mlm import IGNORED, corrupt_tokens, corrupt_tokens_in_order

MASK, PAD = 103, 0
VOCABULARY = torch.arange(30522)
COMMON = {"mask_id": MASK, "pad_id": PAD, "vocabulary_ids": VOCABULARY}


def recorded_runs(tokenization):
    record = tokenization["random_word"]
    ids = torch.tensor(record["input_ids"])
    maps = {"None": None, "mixed": torch.tensor(record["greenlight_mixed"])}
    for run in record["runs"]:
        yield ids, maps[run["greenlight"]], run


@pytest.mark.parity
def test_recorded_corruptions(tokenization):
    changed = 0
    for ids, greenlight_map, run in recorded_runs(tokenization):
        rng = random.Random(run["seed"])
        corrupted, labels = corrupt_tokens_in_order(ids, greenlight_map=greenlight_map, rng=rng, **COMMON)
        expected = torch.tensor(run["input_ids"])
        assert labels.tolist() == run["labels"]
        assert torch.equal(corrupted == MASK, expected == MASK)
        assert torch.equal(
            corrupted == ids, expected == ids
        )  # which id replaces a token depends on the vocabulary's order
        changed += int((expected != ids).sum())
    assert changed > 0


@pytest.fixture(scope="module")
def many():
    return torch.randint(1000, 30000, (64, 4096), generator=torch.Generator().manual_seed(0))


def test_shares_of_masked_replaced_and_kept_tokens(many):
    result = corrupt_tokens(many, generator=torch.Generator().manual_seed(1), **COMMON)
    scored = result.labels != IGNORED
    assert torch.equal(result.labels[scored], many[scored])
    assert torch.equal(result.input_ids[~scored], many[~scored])
    count = scored.sum().item()
    masked = (result.input_ids == MASK).sum().item()
    kept = (scored & (result.input_ids == many)).sum().item()
    assert count / many.numel() == pytest.approx(0.15, abs=0.003)
    assert masked / count == pytest.approx(0.8, abs=0.01)
    assert kept / count == pytest.approx(0.1, abs=0.01)
    replaced = result.input_ids[scored & (result.input_ids != MASK) & (result.input_ids != many)]
    assert replaced.float().mean().item() == pytest.approx(30522 / 2, rel=0.03)


def test_padding_and_red_light_stay(many):
    ids = many[:, :512].clone()
    ids[:, 100:] = PAD
    greenlight_map = torch.zeros(64, 512)
    greenlight_map[:, :40] = -1
    greenlight_map[:, 60:] = 1
    result = corrupt_tokens(ids, greenlight_map=greenlight_map, **COMMON)
    assert torch.equal(result.input_ids[:, :40], ids[:, :40])
    assert torch.equal(result.input_ids[:, 100:], ids[:, 100:])
    assert (result.input_ids[:, 40:60] != ids[:, 40:60]).any()
    assert (result.labels[:, :60] == IGNORED).all()
    assert (result.labels[:, 60:100] != IGNORED).any()


def test_the_input_is_not_changed_and_a_seed_repeats(many):
    ids = many[:2, :64]
    before = ids.clone()
    first = corrupt_tokens(ids, generator=torch.Generator().manual_seed(3), **COMMON)
    again = corrupt_tokens(ids, generator=torch.Generator().manual_seed(3), **COMMON)
    assert torch.equal(ids, before)
    assert torch.equal(first.input_ids, again.input_ids)


def test_a_wider_map_is_cut_and_a_narrower_one_refused(many):
    ids = many[:2, :16]
    result = corrupt_tokens(ids, greenlight_map=torch.full((2, 256), -1.0), **COMMON)
    assert torch.equal(result.input_ids, ids)
    for shape in ((2, 8), (1, 16)):
        with pytest.raises(ValueError, match=r"greenlight map of shape \(.*does not cover"):
            corrupt_tokens(ids, greenlight_map=torch.zeros(shape), **COMMON)
