"""Several texts read with one image: how many at a time, and the image's features for them."""

from collections.abc import Sequence, Sized
from typing import TypeVar

import torch
from torch import Tensor

from maskrcnn_benchmark.modeling.postprocess.token_scores import PositiveMap, TokenMap, split_maps
from maskrcnn_benchmark.modeling.rpn.vldyhead import HeadOutputs

BYTES_PER_LOCATION = 24_000  # that the plain head needs for a text of 128 tokens; about 0.5 GB at 800x1344
MAX_TEXTS = 64
CPU_TEXTS = 4

Part = TypeVar("Part")


def texts_at_a_time(num_texts: int, num_locations: int, device: torch.device) -> int:
    """How many of the texts fit into half of the free memory, in portions of about the same size."""
    limit = CPU_TEXTS
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        limit = max(1, min(MAX_TEXTS, free // 2 // (num_locations * BYTES_PER_LOCATION)))
    portions = -(-num_texts // limit)
    return -(-num_texts // portions)


def check_one_text_per_image(text: Sized, num_images: int) -> None:
    """Raises: ValueError unless there are as many texts as images."""
    if len(text) != num_images:
        raise ValueError(f"the detector needs one caption per image, got {len(text)} for {num_images} images")


def one_per_text(parts: Sequence[Part] | None, num_texts: int) -> list[Part]:
    """What all texts share, given once, or what each of them has -> one for each text.

    Raises: ValueError for another number.
    """
    parts = list(parts or [])
    if len(parts) not in (1, num_texts):
        raise ValueError(f"{len(parts)} positive maps for {num_texts} texts")
    return parts if len(parts) == num_texts else parts * num_texts


def maps_of_texts(
    positive_map: PositiveMap | Sequence[PositiveMap] | TokenMap | None, num_texts: int, part: slice
) -> list[PositiveMap] | TokenMap:
    """The positive maps of some of the texts. Raises: ValueError unless there is one for all or one for each."""
    if not isinstance(positive_map, TokenMap):
        return one_per_text(split_maps(positive_map), num_texts)[part]
    rows = one_per_text(range(len(positive_map.labels)), num_texts)[part]
    return TokenMap(*(tensor[rows] for tensor in positive_map))


def repeat_outputs(outputs: HeadOutputs, num_texts: int) -> HeadOutputs:
    """Predictions from one image alone -> the same for every text."""

    def repeated(levels: list[Tensor] | None) -> list[Tensor] | None:
        return None if levels is None else [x.expand(num_texts, *x.shape[1:]) for x in levels]

    return outputs._replace(
        cls_logits=repeated(outputs.cls_logits),
        bbox_reg=repeated(outputs.bbox_reg),
        centerness=repeated(outputs.centerness),
        token_logits=repeated(outputs.token_logits),
    )
