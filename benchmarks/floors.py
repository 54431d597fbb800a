"""The least time that inference can take on a GPU: operations counted, over the rate measured on the card."""

import torch

from maskrcnn_benchmark.modeling.accelerated.precision import Precision

SWIN_T_GFLOP, FPN_GFLOP = 198.2, 29.3  # at 800x1344; torch.utils.flop_counter
BERT_GFLOP, TEXT_LAYERS_GFLOP = 45.9, 23.0  # at 256 tokens
PIXELS, TOKENS = 800 * 1344, 256
FUSION_GFLOP = 442.0  # re-associated, at 22,400 locations and 256 tokens
DYCONV_GFLOP, HEADS_GFLOP = 254.5, 4.0  # at 22,400 locations


def glip_t_gflop(num_pixels: int, num_tokens: int, *, texts_per_image: float, text_encoded: float) -> float:
    """Operations of GLIP-T for one image.

    texts_per_image: how often the head runs for it; text_encoded: texts encoded for it (equal ones once).
    """
    pixels, tokens = num_pixels / PIXELS, num_tokens / TOKENS
    head = FUSION_GFLOP * pixels * tokens + DYCONV_GFLOP * pixels + HEADS_GFLOP * pixels * tokens
    head += TEXT_LAYERS_GFLOP * tokens
    return (SWIN_T_GFLOP + FPN_GFLOP) * pixels + head * texts_per_image + BERT_GFLOP * tokens * text_encoded


def measure_tflop_per_s(precision: Precision, *, size: int = 8192, repeats: int = 10) -> float:
    """TFLOP/s of a large matrix product on the current GPU; what float32 products are must be set by the caller."""
    a, b = (torch.randn(size, size, device="cuda", dtype=precision.dtype) for _ in range(2))
    return 2e-12 * size**3 / _seconds(lambda: a @ b, repeats)


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
