"""The least time that inference can take on a GPU: operations counted, over the rate measured on the card."""

from typing import NamedTuple

import torch

from maskrcnn_benchmark.modeling.accelerated.precision import Precision

SWIN_T_GFLOP, FPN_GFLOP = 198.2, 29.3  # at 800x1344; torch.utils.flop_counter
BERT_GFLOP, TEXT_LAYERS_GFLOP = 45.9, 23.0  # at 256 tokens
PIXELS, LOCATIONS, TOKENS = 800 * 1344, 22400, 256
FUSION_GFLOP = 442.0  # re-associated, at LOCATIONS and TOKENS
DYCONV_GFLOP, HEADS_GFLOP = 254.5, 4.0  # at LOCATIONS


class Rates(NamedTuple):
    """Of the card: TFLOP/s of a large matrix product, TB/s of a copy counting bytes read and written."""

    tflop_per_s: float
    tb_per_s: float


def glip_t_gflop(num_pixels: int, num_tokens: int, *, texts_per_image: float, text_encoded: float) -> float:
    """Operations of GLIP-T for one image.

    texts_per_image: how often the head runs for it; text_encoded: texts encoded for it (equal ones once).
    """
    pixels, tokens = num_pixels / PIXELS, num_tokens / TOKENS
    head = FUSION_GFLOP * pixels * tokens + DYCONV_GFLOP * pixels + HEADS_GFLOP * pixels * tokens
    head += TEXT_LAYERS_GFLOP * tokens
    return (SWIN_T_GFLOP + FPN_GFLOP) * pixels + head * texts_per_image + BERT_GFLOP * tokens * text_encoded


def measure_rates(precision: Precision, *, size: int = 8192, repeats: int = 10) -> Rates:
    """Rates of the current GPU; what float32 products are must be set by the caller."""
    a, b = (torch.randn(size, size, device="cuda", dtype=precision.dtype) for _ in range(2))
    source = torch.empty(2**31, device="cuda", dtype=torch.uint8)
    product = _seconds(lambda: a @ b, repeats)
    copy = _seconds(source.clone, repeats)
    return Rates(2e-12 * size**3 / product, 2e-12 * source.numel() / copy)


def _seconds(function, repeats: int) -> float:
    for _ in range(2):
        function()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / repeats
