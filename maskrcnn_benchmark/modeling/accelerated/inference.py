"""The accelerated detector: text, images and detections, each stage a CUDA graph where its shapes come again."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn_benchmark.modeling.language_backbone import TextFeatures
from maskrcnn_benchmark.modeling.postprocess.token_scores import (
    PositiveMap,
    TokenMap,
    label_rows,
    split_maps,
    to_device,
    token_matrix,
)
from maskrcnn_benchmark.structures.bounding_box import BoxList

from . import fpn, head, swin
from .fpn import AcceleratedFPN
from .graphs import GraphCache, GraphPool
from .head import AcceleratedHead
from .precision import Precision
from .pyramid import PyramidShape
from .selection import SelectionSettings, can_be_recorded, select_detections, to_box_lists
from .swin import AcceleratedSwin
from .text import AcceleratedTextEncoder, supports_text

CLASS_BUCKET = 16  # the number of classes is padded to a multiple of it, so that recordings fit more prompts
NEVER = 1 << 62  # calls before a shape is recorded
NOT_FINITE = -1  # number of detections where a prediction is infinite or not a number
GRAPHED_AGGREGATIONS = ("MEAN", "ONEHOT")


def why_not_accelerated(model: nn.Module) -> str | None:
    """Why the inference of a GeneralizedVLRCNN cannot be accelerated, or None if it can."""
    parts = (
        ("image encoder", swin.supports(model.backbone.body)),
        ("feature pyramid", fpn.supports(model.backbone.fpn)),
        ("text encoder", supports_text(model.language_backbone.body)),
        ("head", head.supports(model.rpn.head)),
    )
    for name, reason in parts:
        if reason is not None:
            return f"{name}: {reason}"
    if model.rpn.box_selector_test.score_agg not in GRAPHED_AGGREGATIONS:
        return f"DYHEAD.SCORE_AGG {model.rpn.box_selector_test.score_agg!r}"
    return "TEST.USE_MULTISCALE" if model.rpn.box_selector_test.is_raw else None


@contextlib.contextmanager
def float32_products(precision: Precision) -> Iterator[None]:
    """Lets float32 matrix products and convolutions be TensorFloat-32 or exact, as the precision says."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    switches: tuple = (matmul, cudnn)
    name, value = "allow_tf32", precision.dot == "tf32"
    try:
        before = [getattr(switch, name) for switch in switches]
    except RuntimeError:  # PyTorch does not tell its older switches to who has set the newer ones
        switches, name, value = (matmul, cudnn.conv), "fp32_precision", precision.dot
        before = [getattr(switch, name) for switch in switches]
    for switch in switches:
        setattr(switch, name, value)
    try:
        yield
    finally:
        for switch, old in zip(switches, before, strict=True):
            setattr(switch, name, old)


@contextlib.contextmanager
def own_numbers(precision: Precision, tensor: Tensor) -> Iterator[None]:
    """Lets nothing but the precision decide about numbers, whatever autocast says outside, and keeps no gradients.

    tensor: on the device to work on, which kernels take for the current one.
    """
    autocast = torch.autocast(tensor.device.type, enabled=False)
    with torch.no_grad(), autocast, torch.cuda.device_of(tensor), float32_products(precision):
        yield


class StartedDetection:
    """A detection that the device was told to do and may still be busy with.

    Args:
        found: of all texts, the numbers of boxes last; sizes: (height, width) of the image of each text.
        precision: that it is done in.
    """

    def __init__(self, found: tuple[Tensor, ...], sizes: Sequence[tuple[int, int]], precision: Precision):
        self.found, self.sizes, self.precision = found, sizes, precision

    def boxes(self) -> list[BoxList]:
        """A list for each text, best first, on the device.

        Raises: FloatingPointError if a prediction is infinite or not a number.
        """
        found = (*self.found[:-1], self.found[-1].cpu())  # the one wait for the device
        return _box_lists(found, self.sizes, self.precision)

    def boxes_later(self) -> Callable[[], list[BoxList]]:
        """As `boxes`, but without the wait: the call of what is returned waits, and has the lists on the CPU."""
        sizes, precision, counts = self.sizes, self.precision, self.found[-1]
        on_host = tuple(part.to("cpu", non_blocking=True) for part in self.found)
        is_there = torch.cuda.current_stream(counts.device).record_event() if counts.is_cuda else None

        def collect() -> list[BoxList]:
            if is_there is not None:
                is_there.synchronize()
            return _box_lists(on_host, sizes, precision)

        return collect


def _box_lists(found: tuple[Tensor, ...], sizes: Sequence[tuple[int, int]], precision: Precision) -> list[BoxList]:
    """Box lists of what was found; the numbers of boxes, which come last, are on the CPU."""
    if (found[-1] == NOT_FINITE).any():
        raise FloatingPointError(
            f"inference in {precision.name} gave numbers that are not finite; use another precision, such as bf16, "
            "whose range is that of fp32, or fp32"
        )
    return to_box_lists(found, sizes)


class AcceleratedDetector:
    """Inference with the weights that a GeneralizedVLRCNN has when this is made, and that must not change after that.

    Args:
        model: a detector that `why_not_accelerated` accepts, on a GPU, in eval mode.
        precision: of activations and products.
        use_graphs: record CUDA graphs of shapes that come again.
    """

    def __init__(self, model: nn.Module, precision: Precision, *, use_graphs: bool = True):
        self.precision = precision
        self.text_encoder = AcceleratedTextEncoder(model.language_backbone.body, precision)
        self.fpn = AcceleratedFPN(model.backbone.fpn, precision)
        self.body = AcceleratedSwin(model.backbone.body, precision, num_maps=self.fpn.num_maps)
        self.head = AcceleratedHead(model.rpn.head, precision)
        self.anchors = model.rpn.anchor_generator
        self.selection = SelectionSettings.of(model.rpn.box_selector_test)
        self.aggregation = model.rpn.box_selector_test.score_agg
        self._shapes: dict[tuple[int, int], PyramidShape] = {}
        pool = GraphPool()
        direct_calls = 1 if use_graphs else NEVER
        self._text = GraphCache(self._encode_tokens, pool=pool, direct_calls=direct_calls)
        self._images = GraphCache(self._encode_images, pool=pool, direct_calls=direct_calls)
        detect_calls = direct_calls if can_be_recorded() else NEVER
        self._detect = GraphCache(self._find, pool=pool, direct_calls=detect_calls, resources=self.head.tables)

    def encode_tokens(self, input_ids: Tensor, attention_mask: Tensor) -> TextFeatures:
        """Token ids and mask (P, T) -> text features."""
        with own_numbers(self.precision, input_ids):
            hidden, embedded, aggregate = self._text(input_ids, attention_mask)
        return TextFeatures(aggregate=aggregate, embedded=embedded, masks=attention_mask, hidden=hidden)

    def encode_images(self, images: Tensor) -> tuple[Tensor, PyramidShape]:
        """Normalised images (B, 3, H, W) -> features (B, N, C) of all levels, and where the levels lie."""
        with own_numbers(self.precision, images):
            (visual,) = self._images(images)
        return visual, self._shapes[images.shape[2], images.shape[3]]

    def start_detection(
        self,
        visual: Tensor,
        shape: PyramidShape,
        image_sizes: Sequence[tuple[int, int]],
        text_features: TextFeatures,
        embedding: Tensor,
        positive_map: PositiveMap | Sequence[PositiveMap] | TokenMap | None,
    ) -> StartedDetection:
        """Features (B, N, C) and texts -> detections, one list for each text, without waiting for the device.

        image_sizes: (height, width) of the images without padding. With one image there may be several texts.
        Raises: ValueError if there is not one positive map for all texts or one for each.
        """
        hidden, masks = text_features.hidden, text_features.masks
        sizes = list(image_sizes) * (len(hidden) if len(image_sizes) == 1 else 1)
        matrix, labels = token_matrices(
            positive_map, hidden.shape[1], aggregation=self.aggregation, device=visual.device
        )
        if matrix.shape[0] not in (1, len(sizes)):
            raise ValueError(f"{matrix.shape[0]} positive maps for a batch of {len(sizes)} images")
        limits = to_device(torch.tensor([[width - 1.0, height - 1.0] for height, width in sizes]), visual.device)
        anchors = torch.cat(self.anchors.grid_anchors(shape.sizes, visual.device))
        with own_numbers(self.precision, visual):
            found = self._detect(visual, hidden, masks, embedding, matrix, labels, limits, anchors, shape=shape)
        return StartedDetection(found, sizes, self.precision)

    def predictions(self, visual: Tensor, shape: PyramidShape, text_features: TextFeatures, embedding: Tensor):
        """The raw predictions behind `start_detection`; see `AcceleratedHead`."""
        with own_numbers(self.precision, visual):
            return self.head(visual, shape, text_features.hidden, text_features.masks, embedding)

    def _encode_tokens(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.text_encoder({"input_ids": input_ids, "attention_mask": attention_mask})
        return features.hidden, features.embedded, features.aggregate

    def _encode_images(self, images: Tensor) -> tuple[Tensor]:
        visual, shape = self.fpn(self.body(images))
        self._shapes[images.shape[2], images.shape[3]] = shape
        return (visual,)

    def _find(self, visual, hidden, masks, embedding, matrix, labels, limits, anchors, *, shape: PyramidShape):
        predictions = self.head(visual, shape, hidden, masks, embedding)
        found = select_detections(*predictions, anchors, shape, matrix, labels, limits, self.selection)
        # One number that is finite only if all of them are.
        total = predictions.box_codes.sum() + predictions.centerness.sum()
        total = total + (predictions.word_logits.amax((1, 2)) * 0).sum()
        return *found[:-1], torch.where(torch.isfinite(total), found.counts, NOT_FINITE)


def token_matrices(
    positive_map: PositiveMap | Sequence[PositiveMap] | TokenMap | None,
    num_tokens: int,
    *,
    aggregation: str,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Positive maps -> how often a token occurs in a class (S, T, C), and labels (S, C), 0 where unused.

    C is a multiple of CLASS_BUCKET.
    """
    if isinstance(positive_map, TokenMap):
        padding = (0, padded_classes(positive_map.labels.shape[1]) - positive_map.labels.shape[1])
        matrix = F.pad(token_matrix(positive_map, num_tokens), padding)
        return matrix.to(device), F.pad(positive_map.labels, padding).to(device)
    rows = [label_rows(one, num_tokens, aggregation) for one in split_maps(positive_map)]
    columns = padded_classes(max((len(row) for row in rows), default=0))
    matrix = np.zeros((len(rows), num_tokens, columns), dtype=np.float32)
    labels = np.zeros((len(rows), columns), dtype=np.int64)
    for s, row in enumerate(rows):
        for column, (label, tokens) in enumerate(row):
            labels[s, column] = label
            for token in tokens:
                matrix[s, token, column] += 1.0
    return to_device(torch.from_numpy(matrix), device), to_device(torch.from_numpy(labels), device)


def padded_classes(number: int) -> int:
    """The next multiple of CLASS_BUCKET, which is not 0."""
    return max(-(-number // CLASS_BUCKET), 1) * CLASS_BUCKET
