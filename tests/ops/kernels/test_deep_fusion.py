"""The two directions of deep fusion against the attention that defines them."""

import math

import pytest
import torch
from triton_interpreter import interpreted_kernels

from maskrcnn_benchmark.ops.kernels import folded_words, image_update, text_update
from maskrcnn_benchmark.ops.kernels.folded_words import LOG2_E, FoldedWords, Limits, padded_words

NO_LIMITS, BOTH_LIMITS = Limits(False, False), Limits(True, True)
IMAGE_TILINGS = image_update.ImageTilings(image_update.Tiling(16, 32, 4, 2), image_update.Tiling(32, 64, 4, 2))
SHAPES = [  # locations, words, heads, channels, words of every image
    (77, 17, 2, 32, (17, 9)),
    (40, 1, 4, 16, (1,)),
    (35, 70, 3, 16, (70, 1)),
    (33, 101, 2, 16, (101,)),
]


def random_case(locations, words, heads, channels, lengths, *, dtype=torch.float32, device="cpu", scale=1.0):
    generator = torch.Generator().manual_seed(locations)
    batch = len(lengths)
    offsets = torch.full((batch, heads, padded_words(words)), -math.inf)
    for image, length in enumerate(lengths):
        offsets[image, :, :length] = torch.randn(heads, length, generator=generator)
    folded = torch.randn(batch, words, 2, heads, channels, generator=generator)
    folded[:, :, 0] *= scale * channels**-0.5
    visual, bias = (
        torch.randn(batch, locations, channels, generator=generator),
        torch.randn(channels, generator=generator),
    )
    words_seen = FoldedWords(folded.to(device, dtype), offsets.to(device))
    return visual.to(device, dtype), words_seen, bias.to(device)


def attention(visual, words, bias, limits):
    """Both directions in float64, head by head, without the padding."""
    image_out = visual.double() + bias.double()
    heads = words.offsets.shape[1]
    pooled = torch.zeros(
        len(visual), words.num_words, heads, visual.shape[-1], dtype=torch.float64, device=visual.device
    )
    for image in range(len(visual)):
        is_word = words.offsets[image, 0].isfinite()[: words.num_words]
        for head in range(heads):
            keys, values = words.keys_and_values[image, is_word][:, :, head].double().unbind(1)
            offsets = words.offsets[image, head, : words.num_words][is_word].double()
            logits = (visual[image].double() @ keys.T + offsets) / LOG2_E
            if limits.clamp_min:
                logits = logits.clamp(-50000, 50000)
            image_out[image] += logits.softmax(1) @ values
            pooled[image, is_word, head] = logits.softmax(0).T @ visual[image].double()
    return image_out, pooled.flatten(2)


@pytest.mark.parametrize("limits", [NO_LIMITS, BOTH_LIMITS])
@pytest.mark.parametrize("shape", SHAPES)
def test_definitions(shape, limits):
    visual, words, bias = random_case(*shape)
    image_out, pooled = attention(visual, words, bias, limits)
    torch.testing.assert_close(
        image_update.image_update_reference(visual, words, bias, limits).double(), image_out, rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(
        text_update.pool_locations_reference(visual, words, limits).double(), pooled, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("limits", [NO_LIMITS, BOTH_LIMITS])
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_interpreted(shape, limits):
    visual, words, bias = random_case(*shape)
    image_out, pooled = attention(visual, words, bias, limits)
    with interpreted_kernels():
        updated = image_update.image_update(visual, words, bias, limits, tilings=IMAGE_TILINGS)
        tiling = text_update.TextTiling(32, 16, 4, 2, splits=3)
        found = text_update.pool_locations(visual, words, limits, tiling=tiling)
    torch.testing.assert_close(updated.double(), image_out, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.double(), pooled, rtol=1e-5, atol=1e-5)


def test_large_similarities_reach_the_limits():
    """Words beyond the limit share the weight of a location, and locations beyond it that of a word."""
    visual, words, bias = random_case(20, 5, 2, 16, (5,), scale=1e6)
    limited, pooled = attention(visual, words, bias, BOTH_LIMITS)
    assert not torch.allclose(limited, attention(visual, words, bias, NO_LIMITS)[0], rtol=0.1, atol=0.1)
    with interpreted_kernels():
        updated = image_update.image_update(visual, words, bias, BOTH_LIMITS, tilings=IMAGE_TILINGS)
        found = text_update.pool_locations(visual, words, BOTH_LIMITS, tiling=text_update.TextTiling(32, 16, 4, 2))
    # The resolution of float32 at the limit is 0.008.
    torch.testing.assert_close(updated.double(), limited, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(found.double(), pooled, rtol=1e-2, atol=1e-2)


def test_image_without_words_gets_the_bias():
    visual, words, bias = random_case(20, 5, 2, 16, (5, 0))
    expected = visual[1] + bias
    torch.testing.assert_close(image_update.image_update(visual, words, bias, NO_LIMITS)[1], expected)
    with interpreted_kernels():
        updated = image_update.image_update(visual, words, bias, NO_LIMITS, tilings=IMAGE_TILINGS)
        pooled = text_update.pool_locations(visual, words, NO_LIMITS, tiling=text_update.TextTiling(32, 16, 4, 2))
    torch.testing.assert_close(updated[1], expected)
    assert not pooled[1].any()


def test_splits_fill_the_processors():
    assert text_update.choose_splits(programs=104, blocks=350, processors=132) == 5
    assert text_update.choose_splits(programs=13, blocks=350, processors=132) == 10
    assert text_update.choose_splits(programs=1000, blocks=1, processors=132) == 1


def test_padding_of_words():
    assert [padded_words(words) for words in (1, 64, 65, 194, 256)] == [64, 64, 80, 208, 256]


def test_channels_that_are_no_power_of_2_use_the_definition():
    visual, words, bias = random_case(9, 3, 2, 12, (3,))
    with interpreted_kernels():
        assert not folded_words.can_run_kernels(visual, "ieee", 12)
        updated = image_update.image_update(visual, words, bias, NO_LIMITS)
    torch.testing.assert_close(updated.double(), attention(visual, words, bias, NO_LIMITS)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "dtype, dot, tolerance",
    [
        (torch.bfloat16, "tf32", 3e-2),
        (torch.float16, "tf32", 4e-3),
        (torch.float32, "tf32", 8e-3),  # its operands are cut, not rounded
        (torch.float32, "ieee", 1e-4),
    ],
)
@pytest.mark.parametrize("lengths", [(1,), (17, 3), (194, 101, 194), (256,)])
def test_kernels_on_gpu(lengths, dtype, dot, tolerance):
    visual, words, bias = random_case(1000, max(lengths), 8, 256, lengths, dtype=dtype, device="cuda")
    image_out, pooled = attention(visual, words, bias, BOTH_LIMITS)
    updated = image_update.image_update(visual, words, bias, BOTH_LIMITS, dot=dot)
    found = text_update.pool_locations(visual, words, BOTH_LIMITS, dot=dot)
    torch.testing.assert_close(updated.double(), image_out, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.double(), pooled, rtol=tolerance, atol=tolerance)
