"""Both softmaxes of deep fusion and their gradients against the formulas in plain PyTorch."""

import pytest
import torch
from torch import Tensor
from triton_interpreter import interpreted_kernels

from maskrcnn_benchmark.ops.kernels import two_way_attention as kernels
from maskrcnn_benchmark.ops.kernels.folded_words import Limits
from maskrcnn_benchmark.ops.kernels.two_way_attention import Tiling, TwoWayAttention, two_way_attention

NO_LIMITS, BOTH_LIMITS = Limits(False, False), Limits(True, True)
SMALL = Tiling(numbers=64, span=32, column_rows=2, column_block=16, chunk=16)
SHAPES = [  # locations, heads, words of every image
    (37, 2, (5, 3)),
    (16, 3, (20, 0)),
    (1, 1, (1,)),
]


def random_case(locations, heads, lengths, *, dtype=torch.float32, device="cpu", scale=3.0):
    """Similarities, locations and a mask."""
    generator = torch.Generator().manual_seed(locations)
    logits = torch.randn(len(lengths), locations, heads * max(lengths), generator=generator) * scale
    visual = torch.randn(len(lengths), locations, 24, generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return logits.to(device, dtype).requires_grad_(), visual.to(device, dtype).requires_grad_(), mask.long().to(device)


def plain(logits, visual, mask, heads, limits, kept_words=1.0, kept_locations=1.0) -> TwoWayAttention:
    """The definition, in float64, with given factors of dropout."""
    scores = logits.double()
    if limits.clamp_min or limits.clamp_max:
        scores = scores.clamp(-50000 if limits.clamp_min else None, 50000 if limits.clamp_max else None)
    words = scores.unflatten(-1, (heads, -1))
    if mask is not None:
        words = words.masked_fill(mask[:, None, None] == 0, -1e30)
    over_words = words.softmax(-1).flatten(2) * kept_words
    over_locations = scores.softmax(1) * kept_locations
    return TwoWayAttention(over_words, over_locations.transpose(1, 2) @ visual.double(), over_locations.sum(1))


def gradients(result: TwoWayAttention, *leaves: Tensor) -> list[Tensor]:
    """Of a nonlinear function of all that is returned."""
    total = sum((x.double() * 3).sin().sum() for x in result if x is not None)
    return [x.double() for x in torch.autograd.grad(total, leaves)]


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=tolerance, atol=tolerance)


def kept_by(dropped: Tensor, probability: float) -> Tensor:
    """The factors of dropout that a result shows."""
    return (dropped != 0) / (1 - round(probability * 2**16) / 2**16)


@pytest.mark.parametrize(
    "shape, is_masked, limits",
    [
        (SHAPES[0], False, NO_LIMITS),
        (SHAPES[0], True, BOTH_LIMITS),
        (SHAPES[1], True, NO_LIMITS),
        (SHAPES[2], True, NO_LIMITS),
    ],
)
def test_without_dropout(shape, is_masked, limits):
    heads = shape[1]
    logits, visual, mask = random_case(*shape)
    mask = mask if is_masked else None
    expected = plain(logits, visual, mask, heads, limits)
    with interpreted_kernels():
        found = two_way_attention(logits, visual, mask, heads, limits, tiling=SMALL)
        ours = gradients(found, logits, visual)
    assert found.sums is None
    theirs = gradients(expected._replace(sums=None), logits, visual)
    for one, other in zip([*found[:2], *ours], [*expected[:2], *theirs], strict=True):
        close(one, other)


def test_gradients_with_dropout_are_those_of_the_same_mask():
    heads, probability = 2, 0.3
    logits, _, mask = random_case(45, heads, (7, 4))
    every = torch.eye(45).expand(2, -1, -1).clone().requires_grad_()  # pools the weights themselves
    with interpreted_kernels():
        found = two_way_attention(logits, every, mask.bool(), heads, BOTH_LIMITS, dropout=probability, tiling=SMALL)
        ours = gradients(found, logits, every)
    is_word = mask.bool()[:, None, None].expand(-1, 45, heads, -1).flatten(2)
    kept_words = kept_by(found.over_words, probability)
    kept_locations = kept_by(found.pooled.transpose(1, 2), probability)
    assert (kept_words[is_word] == 0).any() and (kept_locations == 0).any()
    expected = plain(logits, every, mask, heads, BOTH_LIMITS, kept_words, kept_locations)
    theirs = gradients(expected, logits, every)
    for one, other in zip([*found, *ours], [*expected, *theirs], strict=True):
        close(one, other)


def test_the_chance_to_be_dropped():
    """Both weights of 24,576 pairs are kept as often as they should, and independently."""
    torch.manual_seed(0)  # what is drawn must look random, and one choice in a hundred does not
    heads, locations, words, probability = 3, 512, 16, 0.25
    logits = torch.zeros(1, locations, heads * words)
    with interpreted_kernels():
        found = two_way_attention(
            logits, torch.eye(locations)[None], None, heads, NO_LIMITS, dropout=probability, tiling=Tiling()
        )
    over_words, over_locations = found.over_words[0] != 0, found.pooled[0].T != 0
    deviation = (probability * (1 - probability) / over_words.numel()) ** 0.5
    for kept in (over_words, over_locations):
        assert abs(kept.double().mean() - (1 - probability)) < 4 * deviation
        for axis in (0, 1):  # no row and no column, and no neighbour, resembles the other
            spread = kept.double().mean(axis).std(correction=0) / (0.1875 / kept.shape[axis]) ** 0.5
            assert 0.75 < spread < 1.25
            assert abs((kept ^ kept.roll(1, axis)).double().mean() - 2 * 0.1875) < 0.02
    assert abs((over_words ^ over_locations).double().mean() - 2 * 0.1875) < 0.02


def test_the_seed_decides_and_the_tiling_does_not():
    logits, visual, mask = random_case(45, 2, (6, 6))
    results = []
    with interpreted_kernels():
        for seed, tiling in ((0, SMALL), (0, Tiling(numbers=128, span=64)), (1, SMALL)):
            torch.manual_seed(seed)
            results.append(two_way_attention(logits, visual, mask, 2, NO_LIMITS, dropout=0.5, tiling=tiling))
    close(results[0].over_words, results[1].over_words)
    close(results[0].pooled, results[1].pooled)
    close(results[0].sums, results[1].sums)
    assert ((results[0].over_words != 0) != (results[2].over_words != 0)).double().mean() > 0.3
    first, second = results[0].over_words.detach()
    assert ((first != 0) != (second != 0)).double().mean() > 0.3  # images of a batch differ


@pytest.mark.parametrize("limits", [BOTH_LIMITS, Limits(True, False), Limits(False, True)])
def test_no_gradient_outside_the_limits(limits):
    logits, visual, mask = random_case(9, 2, (5,))
    with torch.no_grad():
        logits[0, :, 0], logits[0, 3:, 6] = 60000.0, -60000.0
        logits[0, 3, 1], logits[0, 4, 1] = 50000.0, -50000.0
    expected = plain(logits, visual, mask, 2, limits)
    with interpreted_kernels():
        found = two_way_attention(logits, visual, mask, 2, limits, tiling=SMALL)
        ours = gradients(found, logits, visual)
    theirs = gradients(expected._replace(sums=None), logits, visual)
    for one, other in zip([*found[:2], *ours], [*expected[:2], *theirs], strict=True):
        close(one, other)
    if limits.clamp_max:
        assert not ours[0][0, :, 0].any()


def test_what_is_no_number_stays_none():
    logits, visual, mask = random_case(9, 2, (5,))
    with torch.no_grad():
        logits[0, 2, 3] = torch.nan
    with interpreted_kernels():
        found = two_way_attention(logits, visual, mask, 2, BOTH_LIMITS, tiling=SMALL)
    assert found.over_words[0, 2, :5].isnan().all() and found.pooled[0, 3].isnan().all()
    assert found.over_words[0, 1].isfinite().all() and found.pooled[0, 4].isfinite().all()


def test_what_is_served():
    logits = torch.zeros(1, 4, 2 * 8)
    assert not kernels.serves_two_way_attention(logits, 2, 0.1)  # on a CPU
    with interpreted_kernels():
        assert kernels.serves_two_way_attention(logits, 2, 0.1)
        assert not kernels.serves_two_way_attention(logits.double(), 2, 0.1)
        assert not kernels.serves_two_way_attention(logits, 2, 1.0)
        assert not kernels.serves_two_way_attention(logits[:, :0], 2, 0.1)
        assert not kernels.serves_two_way_attention(torch.zeros(1, 1, 2 * 1025), 2, 0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float16, 4e-3), (torch.bfloat16, 3e-2), (torch.float32, 1e-4)], ids=str
)
@pytest.mark.parametrize("lengths", [(194, 101), (256, 0), (17, 3)])
def test_kernels_on_gpu(lengths, dtype, tolerance, dropout):
    """Every difference is measured by the largest number of its tensor."""
    logits, visual, mask = random_case(3000, 8, lengths, dtype=dtype, device="cuda")
    torch.manual_seed(0)
    found = two_way_attention(logits, visual, mask, 8, BOTH_LIMITS, dropout=dropout)
    kept = (1.0, 1.0)
    if dropout:  # the same draw again, with uniform weights that show it
        ones = torch.zeros_like(logits)
        torch.manual_seed(0)
        every = torch.eye(3000, device="cuda", dtype=dtype).expand(2, -1, -1)
        shown = two_way_attention(ones, every, None, 8, BOTH_LIMITS, dropout=dropout)
        kept = kept_by(shown.over_words, dropout), kept_by(shown.pooled.transpose(1, 2), dropout)
        for factors in kept:
            assert abs((factors > 0).double().mean() - 1 + dropout) < 2e-3
    expected = plain(logits, visual, mask, 8, BOTH_LIMITS, *kept)
    expected = expected if dropout else expected._replace(sums=None)
    ours, theirs = gradients(found, logits, visual), gradients(expected, logits, visual)
    pairs = zip(
        [x for x in found if x is not None] + ours, [x for x in expected if x is not None] + theirs, strict=True
    )
    for one, other in pairs:
        scale = other.abs().max()
        close(one / scale, other / scale, tolerance)


@pytest.mark.gpu
def test_a_replayed_graph_drops_anew():
    logits, visual, mask = random_case(300, 2, (20, 7), dtype=torch.float16, device="cuda")

    def step() -> tuple[TwoWayAttention, list[Tensor]]:
        found = two_way_attention(logits, visual, mask, 2, BOTH_LIMITS, dropout=0.5)
        return found, list(torch.autograd.grad(found.over_words.sum() + found.pooled.sum(), (logits, visual)))

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found, grads = step()
    seen = []
    for _ in range(2):
        graph.replay()
        seen.append([x.clone() for x in (found.over_words, found.sums, *grads)])
    assert abs((seen[0][0][0] > 0).double().mean() - 0.5) < 0.05
    for first, second in zip(*seen, strict=True):
        assert first.isfinite().all() and not torch.equal(first, second)
