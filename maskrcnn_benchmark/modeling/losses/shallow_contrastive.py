"""Contrastive loss between features of anchors before the fusion and the tokens of all captions of all ranks."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn_benchmark.modeling.losses.contrastive import MASKED_LOGIT, soft_cross_entropy
from maskrcnn_benchmark.ops.roi_align import roi_align
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils.comm import all_gather, get_rank, get_world_size, reduce_sum

NO_BOX_LABEL = -100  # of an anchor without a box; no token has it
UNKNOWN_LABEL = -10  # of a box without `original_od_label`; no token has it

Sampler = Callable[[Tensor, int], Tensor]


class ShallowSettings(NamedTuple):
    """The shallow contrastive loss.

    source: "fpn" for the inputs of the head at the anchors' locations, "body" for the regions of the anchors pooled
        from the map of stride 16.
    image_dim, text_dim, hidden_dim: widths of the features, and of the space they are projected to.
    log_scale: initial log temperature.
    max_positives: anchors of an image.
    pad_with_zeros: fill up images of fewer positives with nothing instead of negatives.
    """

    source: str
    image_dim: int
    text_dim: int
    hidden_dim: int = 64
    log_scale: float = 0.0
    max_positives: int = 100
    pad_with_zeros: bool = False


class ChosenAnchors(NamedTuple):
    """The anchors of every image that take part: first positives, then negatives or empty places.

    index: (B, K) int64; is_filled: (B, K) bool, False for empty places.
    """

    index: Tensor
    is_filled: Tensor


def sample_without_replacement(population: Tensor, number: int) -> Tensor:
    """`number` entries of a vector, drawn with Python's `random`."""
    return population[random.sample(range(len(population)), number)]


def choose_anchors(
    is_positive: Tensor, max_positives: int, *, pad_with_zeros: bool, sample: Sampler = sample_without_replacement
) -> ChosenAnchors:
    """Positives of every image, at most `max_positives`, filled up to the largest number over images and ranks.

    Args:
        is_positive: (B, N).
        max_positives: of an image; from that number on they are drawn at random.
        pad_with_zeros: leave the remaining places empty; otherwise random negatives fill them.
        sample: draws entries of a vector.
    """
    chosen = []
    for positive in is_positive:
        index = positive.nonzero()[:, 0]
        if len(index) >= max_positives:
            index = sample(index, max_positives).sort().values
        chosen.append(index)
    size = max(all_gather(max(len(index) for index in chosen)))
    rows, filled = [], []
    for positive, index in zip(is_positive, chosen, strict=True):
        missing = size - len(index)
        filled.append(torch.arange(size, device=index.device) < (len(index) if pad_with_zeros else size))
        if pad_with_zeros:
            rows.append(F.pad(index, (0, missing)))
        else:
            rows.append(torch.cat((index, sample((~positive).nonzero()[:, 0], missing))))
    return ChosenAnchors(torch.stack(rows), torch.stack(filled))


def pair_matrix(box_labels: Tensor, token_labels: Tensor, own_pairs: Tensor) -> Tensor:
    """Which anchors of a rank belong to which tokens of all ranks: by label, within an image by its own phrases.

    Args:
        box_labels: (B, K), NO_BOX_LABEL where there is no box.
        token_labels: (W, B, T) of all ranks.
        own_pairs: (B, K, T) bool.

    Returns: (B, K, W, B, T) float32.
    """
    pairs = (box_labels[:, :, None, None, None] == token_labels).float()
    images = torch.arange(len(box_labels), device=box_labels.device)
    pairs[images, :, get_rank(), images] = own_pairs.float()
    return pairs


def shallow_contrastive_loss(
    image_embeddings: Tensor,
    text_embeddings: Tensor,
    is_filled: Tensor,
    text_mask: Tensor,
    pairs: Tensor,
    temperature: Tensor,
) -> Tensor:
    """Cross-entropy over the tokens of all ranks for the anchors of this one, and the other way round.

    Args:
        image_embeddings: (B, K, D) of unit length; is_filled: (B, K).
        text_embeddings: (B, T, D) of unit length; text_mask: (B, T), larger than 0 for words.
        pairs: (B, K, W, B, T), as `pair_matrix` returns it.
        temperature: logits are divided by it.

    Returns: scalar, the mean of both sums.
    """
    images, texts = gather_with_gradient(image_embeddings), gather_with_gradient(text_embeddings)
    all_filled = gather_with_gradient(is_filled.float()).flatten() > 0
    all_words = gather_with_gradient((text_mask > 0).float()).flatten() > 0
    all_pairs = gather_with_gradient(pairs).flatten(0, 2).flatten(1)  # (W B K, W B T)
    rank, world = get_rank(), get_world_size()
    logits = images.flatten(0, 2) @ texts.flatten(0, 2).T / temperature
    logits = logits.masked_fill(~all_words, MASKED_LOGIT).masked_fill(~all_filled[:, None], MASKED_LOGIT)
    rows, columns = logits.chunk(world, dim=0)[rank], logits.chunk(world, dim=1)[rank].T
    row_pairs, column_pairs = all_pairs.chunk(world, dim=0)[rank], all_pairs.chunk(world, dim=1)[rank].T
    return (soft_cross_entropy(rows, row_pairs) + soft_cross_entropy(columns, column_pairs)) / 2


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Tensors of equal shape from all ranks, stacked (W, ...); the own one keeps its gradient."""
    world, rank = get_world_size(), get_rank()
    if world == 1:
        return tensor[None]
    gathered = torch.zeros(world, *tensor.shape, dtype=tensor.dtype, device=tensor.device)
    gathered[rank] = tensor.detach()
    gathered = reduce_sum(gathered)
    return torch.cat((gathered[:rank], tensor[None], gathered[rank + 1 :]))


def pool_anchors(feature_map: Tensor, boxes: Tensor) -> Tensor:
    """Regions (B, K, 4) of the map (B, C, H, W) of stride 16 -> (B, K, C)."""
    images = torch.arange(len(boxes), device=boxes.device)[:, None, None].expand(-1, boxes.shape[1], 1)
    rois = torch.cat((images.to(boxes), boxes), dim=-1).flatten(0, 1)
    pooled = roi_align(feature_map, rois, (1, 1), 1 / 16, 0, aligned=True)
    return pooled.flatten(1).unflatten(0, boxes.shape[:2])


def original_labels(target: BoxList) -> Tensor:
    """Label of every box in its data set (G,), UNKNOWN_LABEL for all where they are not known."""
    if target.has_field("original_od_label"):
        return target.get_field("original_od_label").float()
    return torch.full((len(target),), float(UNKNOWN_LABEL), device=target.bbox.device)


def token_labels(target: BoxList, num_tokens: int) -> Tensor:
    """Label of every text position (T,), -1 for those of no class."""
    labels = torch.full((num_tokens,), -1.0, device=target.bbox.device)
    if target.has_field("positive_map_for_od_labels"):
        known = target.get_field("positive_map_for_od_labels").float().flatten()[:num_tokens]
        labels[: len(known)] = known
    return labels
