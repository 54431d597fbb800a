"""What the detector hands out between its stages."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from maskrcnn_benchmark.modeling.language_backbone import TextFeatures
from maskrcnn_benchmark.structures.image_list import ImageList

PictureMemory = Callable[[ImageList, Callable[[Tensor], tuple[Tensor, ...]]], tuple[Tensor, ...]]
"""(pictures with names, what encodes one of them) -> levels: see `engine.tuning.feature_cache`."""


class FeaturePyramid(NamedTuple):
    """Encoded images.

    Attributes:
        levels: (B, C, H_l, W_l) maps, finest first; image_sizes: (height, width) of each image without padding.
        c4: stride-16 body map for the shallow contrastive loss, or None.
        text: the text, if the backbone changed it, or None.
        visual: all levels as one (B, N, C) tensor, of which they are views, where accelerated inference made them.
    """

    levels: tuple[Tensor, ...]
    image_sizes: list[tuple[int, int]]
    c4: Tensor | None = None
    text: TextFeatures | None = None
    visual: Tensor | None = None


class RegionWordFeatures(NamedTuple):
    """What the alignment logits are made of: logit = region . word / temperature + bias.

    Attributes:
        regions: (B, C, H_l, W_l) tower output per level; words: (B, T, C) projected words; word_bias: (B, T);
        temperature: one number.
    """

    regions: list[Tensor]
    words: Tensor
    word_bias: Tensor
    temperature: Tensor
