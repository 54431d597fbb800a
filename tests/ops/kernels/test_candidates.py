"""Ranks of pairs of location and class: the Triton kernel against its definition."""

import pytest
import torch
from triton_interpreter import interpreted_kernels

from maskrcnn_benchmark.ops.kernels import candidates
from maskrcnn_benchmark.ops.kernels.candidates import EMPTY, PADDING, rank_locations, rank_pairs, ranks_reference

THRESHOLD = 0.3


def random_pairs(batch=2, locations=70, tokens=37, classes=20, maps=1, seed=0):
    """Logits, centerness and a matrix whose last three columns have no tokens."""
    torch.manual_seed(seed)
    matrix = torch.zeros(maps, tokens, classes)
    for s in range(maps):
        for column in range(classes - 3):
            matrix[s, torch.randperm(tokens)[: 1 + column % 3], column] = 1.0
    return torch.randn(batch, locations, tokens), torch.randn(batch, locations), matrix


def chosen_ranks(logits, centerness, matrix, locations):
    """Ranks at the locations by way of all ranks."""
    ranks = ranks_reference(logits, centerness.expand(len(logits), -1), matrix, THRESHOLD)
    ranks = ranks.gather(1, locations.clamp(min=0)[..., None].expand(-1, -1, ranks.shape[-1]))
    return ranks.masked_fill((locations < 0)[..., None], EMPTY)


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=2e-6, atol=0)


def check(logits, centerness, matrix):
    locations = torch.randint(-1, logits.shape[1], (len(logits), 67), device=logits.device)
    everything = ranks_reference(logits, centerness, matrix, THRESHOLD)
    assert (everything > 0).any() and (everything == EMPTY).any()
    found = rank_locations(logits, centerness, matrix, THRESHOLD, logits.shape[1] + 9)
    close(found[:, :-9], everything.amax(-1))
    assert (found[:, -9:] == PADDING).all()
    pairs = rank_pairs(logits, centerness, matrix, THRESHOLD, locations)
    close(pairs, chosen_ranks(logits, centerness, matrix, locations))
    best = found.gather(1, locations.clamp(min=0)).masked_fill(locations < 0, EMPTY)
    assert torch.equal(pairs.amax(-1), best)  # the very same numbers


def test_the_definition_is_the_mean_of_the_tokens():
    logits, centerness, matrix = random_pairs()
    tokens = matrix[0, :, 1].nonzero().squeeze(1)
    scores = logits[..., tokens].sigmoid().mean(-1)
    expected = torch.where(scores > THRESHOLD, scores * centerness.sigmoid(), EMPTY)
    for scale in (1.0, 1 / 3):
        close(ranks_reference(logits, centerness, matrix * scale, THRESHOLD)[..., 1], expected)
    assert (ranks_reference(logits, centerness, matrix, -0.5)[..., -3:] == EMPTY).all()
    check(*random_pairs())


@pytest.mark.parametrize("maps", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_kernel(maps, dtype):
    logits, centerness, matrix = random_pairs(maps=maps)
    with interpreted_kernels():
        check(logits.to(dtype), centerness, matrix)


def test_kernel_reads_strided_inputs_and_shared_centerness():
    logits, centerness, matrix = random_pairs()
    locations = torch.randint(-1, 70, (2, 5))
    expected = chosen_ranks(logits, centerness[:1], matrix, locations)
    for strided in (logits.transpose(0, 1).contiguous().transpose(0, 1), logits.mT.contiguous().mT):
        with interpreted_kernels():
            close(rank_pairs(strided, centerness[:1], matrix, THRESHOLD, locations), expected)
            best = rank_locations(strided[:, 20:50], centerness[:1, 20:50], matrix, THRESHOLD, 30)
        everything = ranks_reference(logits, centerness[:1].expand(2, -1), matrix, THRESHOLD)
        close(best, everything[:, 20:50].amax(-1))


def test_more_classes_than_a_tile_take_the_definition():
    arguments = random_pairs(classes=candidates.MAX_CLASSES + 1)
    with interpreted_kernels():
        check(*arguments)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tokens, classes", [(194, 80), (101, 48), (256, 256), (7, 3)])
def test_kernel_on_a_gpu(dtype, tokens, classes):
    logits, centerness, matrix = (x.cuda() for x in random_pairs(3, 1000, tokens, max(classes, 4)))
    check(logits.to(dtype), centerness, matrix)
