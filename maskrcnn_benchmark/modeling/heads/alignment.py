"""Agreement of every location with every word: the logits that make GLIP a detector of arbitrary phrases."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn_benchmark.modeling.fusion.bi_attention import CLAMP_LIMIT


def flatten_anchors(x: Tensor, num_anchors: int = 1) -> Tensor:
    """(B, A C, H, W) -> (B, H W A, C), locations row by row."""
    b, _, h, w = x.shape
    return x.view(b, num_anchors, -1, h, w).permute(0, 3, 4, 1, 2).reshape(b, h * w * num_anchors, -1)


def dot_product_logits(
    levels: Sequence[Tensor], words: Tensor, word_bias: Tensor, log_scale: Tensor, *, clamp: bool
) -> list[Tensor]:
    """Similarity of locations and words (GLIP, arXiv:2112.03857, eq. 3).

    Args:
        levels: visual features (B, C, H_l, W_l); words: projected text (B, T, C); word_bias: (B, T);
        log_scale: log of the temperature, one number; clamp: limit the result to -50000 and 50000.
    Returns: one (B, H_l W_l, T) tensor per level.
    """
    words = (words / log_scale.exp()).transpose(1, 2)  # (B, C, T)
    logits = [flatten_anchors(level) @ words + word_bias[:, None] for level in levels]
    return [x.clamp(-CLAMP_LIMIT, CLAMP_LIMIT) for x in logits] if clamp else logits


def contrastive_align_logits(
    image_projections: Sequence[Tensor], words: Tensor, log_scale: Tensor, num_anchors: int = 1
) -> list[Tensor]:
    """Cosine similarity of locations and words (MDETR, arXiv:2104.12763).

    image_projections (B, A D, H_l, W_l), words (B, T, D) of unit length -> one (B, H_l W_l A, T) per level.
    """
    words = (words / log_scale.exp()).transpose(1, 2)
    flat = (F.normalize(flatten_anchors(x, num_anchors), dim=-1) for x in image_projections)
    return [x @ words for x in flat]


def unit_words(text: Tensor) -> Tensor:
    """(B, T, D) text features scaled to length one."""
    return F.normalize(text, p=2.0, dim=-1)


def word_biases(unit_text: Tensor, bias_lang: Tensor, bias0: Tensor) -> Tensor:
    """(B, T, D) unit text, (D,) and (1,) parameters -> (B, T) bias per word."""
    return torch.matmul(unit_text, bias_lang) + bias0
