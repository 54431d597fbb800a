"""``GLIPDemo``: the original's demo class, one BGR picture and one text at a time.

New code has an easier time with ``engine.detector_api.Detector``; this class keeps the documented arguments, methods
and return values for notebooks and projects that build on them.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from maskrcnn_benchmark.data.transforms import Compose, Normalize, Resize, ToTensor
from maskrcnn_benchmark.engine.devices import resolve_device
from maskrcnn_benchmark.engine.loading import load_model
from maskrcnn_benchmark.engine.text_files import use_local_text_files
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import to_image_list
from maskrcnn_benchmark.text import noun_phrases
from maskrcnn_benchmark.text.noun_phrases import remove_punctuation
from maskrcnn_benchmark.text.positive_map import create_positive_map, label_to_tokens
from maskrcnn_benchmark.text.spans import Span, find_phrase
from maskrcnn_benchmark.text.tokenizer import build_tokenizer
from maskrcnn_benchmark.visualization.draw import contrasting, font_for, label_text

logger = logging.getLogger(__name__)

__all__ = [
    "GLIPDemo",
    "create_positive_map",
    "create_positive_map_label_to_token_from_positive_map",
    "find_noun_phrases",
    "remove_punctuation",
    "to_image_list",
]

PALETTE = (2**25 - 1, 2**15 - 1, 2**21 - 1)
BLEND = 0.5  # weight of the drawn boxes where no other is given
LETTER_HEIGHT = 24  # pixels, at text size 1
UNKNOWN_NAME = "object"


def create_positive_map_label_to_token_from_positive_map(positive_map: Tensor, plus: int = 0) -> dict[int, list[int]]:
    """(P, T) weights -> {row + plus: positions of its non-zero columns}."""
    return label_to_tokens(positive_map, plus)


def find_noun_phrases(caption: str) -> list[str]:
    """The noun phrases of a caption as texts, in order; ``text.noun_phrases`` has them with their places."""
    return [phrase.text for phrase in noun_phrases.find_noun_phrases(caption)]


class GLIPDemo:
    """Detects what a text names on a picture and draws it.

    Args:
        cfg: a merged configuration; it is copied. MODEL.WEIGHT is loaded whatever lies in OUTPUT_DIR.
        confidence_threshold: lowest score of ``inference``; a list holds one for each entity.
        min_image_size: the shorter side is resized to it, the longer one follows without limit; None: no resizing.
        show_mask_heatmaps, masks_per_dim: the original's mask montage; this project has no mask heads.
        load_model: False leaves ``model`` None, to be set by the caller.
        color: None for a colour per label; a grey value for all of them; or three integers that replace ``palette``.
        font_scale: factor on the size of the letters.
    Attributes:
        entities: the names of labels 1, 2, ... of the last text, in all three forms of input.
        spans: for each of them its character spans in ``caption``, the text that the model read.
    Raises: NotImplementedError for masks; ValueError for a device or weights that cannot be used.
    """

    def __init__(
        self,
        cfg,
        confidence_threshold: float | Sequence[float] = 0.7,
        min_image_size: int | None = None,
        show_mask_heatmaps: bool = False,
        masks_per_dim: int = 5,
        load_model: bool = True,
        *,
        color: int | Sequence[int] | None = None,
        font_scale: float = 1.0,
    ):
        if show_mask_heatmaps or cfg.MODEL.MASK_ON:
            raise NotImplementedError("show_mask_heatmaps and MODEL.MASK_ON: there are no mask heads here, only boxes")
        self.cfg = cfg.clone()
        self.confidence_threshold = confidence_threshold
        self.min_image_size = min_image_size
        self.show_mask_heatmaps, self.masks_per_dim = show_mask_heatmaps, masks_per_dim
        self.color = None if isinstance(color, Sequence) else color
        self.palette = torch.tensor(color if isinstance(color, Sequence) else PALETTE)
        self.font_scale = font_scale
        self.entities: list[str] = []
        self.spans: list[list[Span]] = []
        self.caption = ""
        self.plus = 1 if cfg.MODEL.RPN_ARCHITECTURE == "VLDYHEAD" else 0
        self.cpu_device = torch.device("cpu")
        self.device = resolve_device(cfg.MODEL.DEVICE) if load_model else self.cpu_device
        self.model = self._load_model() if load_model else None
        self.tokenizer = self.build_tokenizer()
        self.transforms = self.build_transform()

    def _load_model(self):
        if not self.cfg.MODEL.WEIGHT:
            logger.warning("MODEL.WEIGHT is empty: the model is untrained")
            return load_model(self.cfg, None, self.device)
        use_local_text_files(self.cfg)
        return load_model(self.cfg, self.cfg.MODEL.WEIGHT, self.device)

    def build_tokenizer(self):
        """The tokenizer that the configuration names."""
        return build_tokenizer(
            self.cfg.MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE, mlm=self.cfg.MODEL.DYHEAD.FUSE_CONFIG.MLM_LOSS
        )

    def build_transform(self) -> Callable[[np.ndarray], Tensor]:
        """What makes a normalised tensor (3, H', W') of a picture (H, W, 3) uint8 BGR."""
        layout = "255" if self.cfg.INPUT.TO_BGR255 else "bgr"  # the channels already are BGR: "bgr" makes them RGB
        steps = [ToTensor(), Normalize(self.cfg.INPUT.PIXEL_MEAN, self.cfg.INPUT.PIXEL_STD, format=layout)]
        return partial(
            _transformed, Compose([Resize(self.min_image_size, None), *steps] if self.min_image_size else steps)
        )

    # Prediction

    def run_on_web_image(
        self,
        original_image: np.ndarray,
        original_caption: str | Sequence[str],
        thresh: float = 0.5,
        custom_entity: Sequence[Mapping[str, Any]] | None = None,
        alpha: float = 0.0,
    ) -> tuple[np.ndarray, BoxList]:
        """Detects and draws.

        Args:
            original_image: (H, W, 3) uint8 BGR; it is not changed.
            original_caption, custom_entity: see ``compute_prediction``.
            thresh: lowest score, unless ``confidence_threshold`` holds one for each entity.
            alpha: weight of the drawn boxes over the picture; 0 means the usual 0.5.
        Returns: the drawn picture, BGR, and the detections above the threshold, the best first.
        """
        predictions = self.compute_prediction(original_image, original_caption, custom_entity)
        top = self._post_process(predictions, thresh)
        image = self.overlay_boxes(original_image, top, alpha or BLEND)
        return self.overlay_entity_names(image, top), top

    def inference(self, original_image: np.ndarray, original_caption: str | Sequence[str]) -> BoxList:
        """Detections above ``confidence_threshold`` in pixels of the picture, the best first."""
        return self._post_process_fixed_thresh(self.compute_prediction(original_image, original_caption))

    @torch.no_grad()
    def compute_prediction(
        self,
        original_image: np.ndarray,
        original_caption: str | Sequence[str],
        custom_entity: Sequence[Mapping[str, Any]] | None = None,
    ) -> BoxList:
        """All detections of the model in pixels of the picture, with the fields ``labels`` and ``scores``.

        Args:
            original_image: (H, W, 3) uint8 BGR.
            original_caption: a list of class names, or a caption whose noun phrases become the entities.
            custom_entity: instead of the noun phrases of a caption: ``{"span": text}`` is its first occurrence as whole
                words, or else as a part of one, ``{"char_bounds": (begin, end)}`` a place. One that does not occur
                keeps its label, undetected.
        Raises: ValueError for an unusable picture or an empty text.
        """
        if self.model is None:
            raise ValueError("there is no model: load_model was False and none has been set since")
        height, width = _checked(original_image).shape[:2]
        self.caption = self._read_text(original_caption, custom_entity)
        positive_map = self._positive_map()
        images = to_image_list(self.transforms(original_image), self.cfg.DATALOADER.SIZE_DIVISIBILITY).to(self.device)
        prediction = self.model(images, captions=[self.caption], positive_map=positive_map)[0]
        return prediction.to(self.cpu_device).resize((width, height))

    def run_ner(self, caption: str) -> list[list[Span]]:
        """The spans of the noun phrases, one list for each; also sets ``entities``, aligned with them."""
        phrases = noun_phrases.find_noun_phrases(caption)
        self.entities = [phrase.text for phrase in phrases]
        self.spans = [[(phrase.begin, phrase.end)] for phrase in phrases]
        if not phrases:
            logger.warning("no noun phrase in %r: nothing will be detected", caption)
        return self.spans

    def describe(self, predictions: BoxList) -> list[dict[str, Any]]:
        """Detections as plain records: phrase, its spans in ``caption``, box (xyxy pixels) and score."""
        labels = predictions.get_field("labels").tolist()
        return [
            {"phrase": self._name(label), "spans": self._spans(label), "box": box, "score": score}
            for box, score, label in zip(
                predictions.convert("xyxy").bbox.tolist(), predictions.get_field("scores").tolist(), labels, strict=True
            )
        ]

    def _read_text(self, text: str | Sequence[str], custom_entity: Sequence[Mapping[str, Any]] | None) -> str:
        """Sets ``entities`` and ``spans``; returns the caption for the model."""
        if not text or (isinstance(text, str) and not text.strip()):
            raise ValueError(f"the text is empty: {text!r}; give a caption or a list of class names")
        if not isinstance(text, str):
            caption = ""
            self.entities, self.spans = list(text), []
            for name in self.entities:
                self.spans.append([(len(caption), len(caption) + len(name))])
                caption += f"{name} . "
            return caption
        if custom_entity is None:
            self.run_ner(text)
            return text
        self.entities, self.spans = [], []
        for entity in custom_entity:
            span = _custom_span(text, entity)
            self.entities.append(entity["span"] if span is None else text[slice(*span)])
            self.spans.append([] if span is None else [span])
        return text

    def _positive_map(self) -> dict[int, list[int]]:
        """Label -> token positions of the entities that have some."""
        encoding = self.tokenizer([self.caption], verbose=False)
        max_tokens = self.cfg.MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN
        rows = label_to_tokens(create_positive_map(encoding, self.spans, max_tokens), self.plus)
        lost = [self._name(label) for label, tokens in rows.items() if not tokens]
        if lost:
            logger.warning("not in the %d tokens that the model reads, never detected: %s", max_tokens, ", ".join(lost))
        return {label: tokens for label, tokens in rows.items() if tokens}

    # Selection

    def _post_process(self, predictions: BoxList, threshold: float = 0.5) -> BoxList:
        """Detections above ``threshold``, or above the entity's own where there are several; the best first."""
        if isinstance(self.confidence_threshold, Sequence) and len(self.confidence_threshold) > 1:
            return self._select(predictions, self.confidence_threshold)
        return self._select(predictions, [threshold])

    def _post_process_fixed_thresh(self, predictions: BoxList) -> BoxList:
        """The same with ``confidence_threshold`` alone."""
        fixed = self.confidence_threshold
        return self._select(predictions, fixed if isinstance(fixed, Sequence) else [fixed])

    def _select(self, predictions: BoxList, thresholds: Sequence[float]) -> BoxList:
        scores, labels = predictions.get_field("scores"), predictions.get_field("labels")
        limits = torch.tensor([float(value) for value in thresholds], dtype=scores.dtype, device=scores.device)
        if len(limits) > 1:
            most = int(labels.max()) if len(labels) else 0
            if most > len(limits):
                raise ValueError(f"confidence_threshold holds {len(limits)} values, but there is a label {most}")
            limits = limits[labels - 1]
        kept = predictions[(scores > limits).nonzero().squeeze(1)]
        return kept[kept.get_field("scores").argsort(descending=True, stable=True)]

    # Drawing

    def visualize_with_predictions(
        self,
        original_image: np.ndarray,
        predictions: BoxList,
        thresh: float = 0.5,
        alpha: float = 0.0,
        box_pixel: int = 3,
        text_size: float = 1,
        text_pixel: int = 2,
        text_offset: int = 10,
        text_offset_original: int = 4,
        color: int = 255,
    ) -> tuple[np.ndarray, BoxList]:
        """Draws given predictions all in the grey value ``color``, which stays set; returns what was drawn as well.

        Args:
            alpha: weight of the drawn boxes over the picture; 0 means the usual 0.5.
            box_pixel, text_pixel: widths of the lines; text_size: factor on the letters.
            text_offset: labels closer than this in both axes are moved apart, upwards.
            text_offset_original: distance of a label from its box.
        """
        self.color = color
        top = self._post_process(predictions, thresh)
        image = self.overlay_boxes(original_image, top, alpha or BLEND, box_pixel)
        image = self.overlay_entity_names(
            image, top, text_size=text_size, text_pixel=text_pixel,
            text_offset=text_offset, text_offset_original=text_offset_original,
        )  # fmt: skip
        return image, top

    def compute_colors_for_labels(self, labels: Tensor) -> np.ndarray:
        """(K,) labels -> (K, 3) uint8 BGR; a label has the same colour in every picture."""
        if self.color is not None:
            return np.full((len(labels), 3), self.color, dtype=np.uint8)
        return ((30 * (labels.cpu()[:, None] - 1) + 1) * self.palette % 255).numpy().astype(np.uint8)

    def overlay_boxes(
        self, image: np.ndarray, predictions: BoxList, alpha: float = BLEND, box_pixel: int = 3
    ) -> np.ndarray:
        """A copy of the picture with the outlines blended in by ``alpha``."""
        canvas = Image.fromarray(_checked(image))  # BGR colours on a BGR picture: Pillow need not know
        draw = ImageDraw.Draw(canvas)
        colors = self.compute_colors_for_labels(predictions.get_field("labels"))
        for box, color in zip(predictions.bbox.tolist(), colors.tolist(), strict=True):
            x1, y1, x2, y2 = (int(value) for value in box)
            draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=tuple(color), width=box_pixel)
        mixed = alpha * np.asarray(canvas, dtype=np.float32) + (1 - alpha) * image
        return mixed.round().clip(0, 255).astype(np.uint8)

    def overlay_entity_names(
        self,
        image: np.ndarray,
        predictions: BoxList,
        names: Sequence[str] | None = None,
        text_size: float = 1.0,
        text_pixel: int = 2,
        text_offset: int = 10,
        text_offset_original: int = 4,
    ) -> np.ndarray:
        """A copy of the picture with "name:score" above every box; ``names`` replaces ``entities``."""
        size = max(6, round(LETTER_HEIGHT * text_size * self.font_scale))
        canvas = Image.fromarray(_checked(image))
        draw = ImageDraw.Draw(canvas)
        color = (255 if self.color is None else self.color,) * 3
        places: list[tuple[int, int]] = []
        for box, score, label in zip(
            predictions.bbox.tolist(),
            predictions.get_field("scores").tolist(),
            predictions.get_field("labels").tolist(),
            strict=True,
        ):
            name = self._name(label, names).replace("_", " ").replace("(", "").replace(")", "")
            text = label_text(f"{name}:{score:.2f}")
            font = font_for(text, size)
            x, y = int(box[0]), int(box[1]) - text_offset_original
            while any(abs(x - other_x) < text_offset and abs(y - other_y) < text_offset for other_x, other_y in places):
                y -= text_offset
            x = max(0, min(x, canvas.width - int(font.getlength(text)) - text_pixel))
            y = max(size, min(y, canvas.height - 1))
            places.append((x, y))
            draw.text(
                (x, y), text, font=font, fill=color, anchor="ls", stroke_width=text_pixel,
                stroke_fill=contrasting(color),
            )  # fmt: skip
        return np.array(canvas)

    def overlay_scores(self, image: np.ndarray, predictions: BoxList) -> np.ndarray:
        """A copy of the picture with the score of every box, white in the middle of its left side."""
        canvas = Image.fromarray(_checked(image))
        draw = ImageDraw.Draw(canvas)
        size = max(6, round(LETTER_HEIGHT * self.font_scale))
        for (x1, y1, _, y2), score in zip(
            predictions.bbox.tolist(), predictions.get_field("scores").tolist(), strict=True
        ):
            text = f"{score:.3f}"
            draw.text((int(x1), int((y1 + y2) / 2)), text, font=font_for(text, size), fill=(255,) * 3, anchor="ls")
        return np.array(canvas)

    def _name(self, label: int, names: Sequence[str] | None = None) -> str:
        names = self.entities if names is None else names
        index = label - self.plus
        return names[index] if 0 <= index < len(names) else UNKNOWN_NAME

    def _spans(self, label: int) -> list[Span]:
        index = label - self.plus
        return self.spans[index] if 0 <= index < len(self.spans) else []


def _transformed(transforms: Compose, image: np.ndarray) -> Tensor:
    return transforms(Image.fromarray(_checked(image)))[0]


def _custom_span(caption: str, entity: Mapping[str, Any]) -> Span | None:
    if "char_bounds" in entity:
        begin, end = entity["char_bounds"]
        if not 0 <= begin < end <= len(caption):
            raise ValueError(f"char_bounds {(begin, end)} lie outside the caption of {len(caption)} characters")
        return begin, end
    if not isinstance(entity.get("span"), str):
        raise ValueError(f"a custom entity holds 'span' or 'char_bounds', not {dict(entity)}")
    text = entity["span"]
    span = find_phrase(caption, text)
    if span is None and text.strip() and text in caption:  # "cat" of "cats", as the original finds it
        begin = caption.index(text)
        span = begin, begin + len(text)
    if span is None:
        logger.warning("%r does not occur in the caption %r: never detected", text, caption)
    return span


def _checked(image: np.ndarray) -> np.ndarray:
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        shape = getattr(image, "shape", type(image).__name__)
        raise ValueError(f"the picture must be a BGR array of shape (H, W, 3), not {shape}")
    if image.dtype != np.uint8:
        raise ValueError(f"the picture must hold uint8 values, not {image.dtype}")
    return np.ascontiguousarray(image)
