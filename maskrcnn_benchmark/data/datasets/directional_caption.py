"""Captions that stay true when the picture is mirrored."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from maskrcnn_benchmark.data.transforms.transforms import Transform
from maskrcnn_benchmark.structures.bounding_box import FLIP_LEFT_RIGHT, BoxList

_CAPTION_FIELD = "directional_caption"
TextMaps = Callable[[str, Sequence[Sequence[Sequence[int]]], Sequence[Sequence[int]], Mapping], dict[str, Tensor]]

Span = tuple[int, ...]  # (begin, end) of characters, half-open; longer tuples are marks and stay as they are

_SIDE = re.compile(r"\b(left|right)((?:most|ward|wards|hand)?)\b", re.IGNORECASE)


class MirroredText(NamedTuple):
    """A text with left and right exchanged, and where each replaced word was and how much the text grew there."""

    text: str
    edits: tuple[tuple[int, int, int], ...]  # (begin, end, growth) in the old text

    def move(self, span: Span) -> Span:
        """The span that covers the same words in the new text. A cut through an exchanged word moves to its end."""
        if len(span) != 2:
            return tuple(span)
        return self._move_begin(span[0]), self._move_end(span[1])

    def _move_begin(self, position: int) -> int:
        return position + sum(growth for _, end, growth in self.edits if end <= position)

    def _move_end(self, position: int) -> int:
        return position + sum(growth for begin, _, growth in self.edits if begin < position)


def mirror_text(text: str) -> MirroredText:
    """Exchanges the words left and right (also leftmost, right-hand, ...), keeping their capitals."""
    edits = []

    def exchange(match: re.Match[str]) -> str:
        word, suffix = match.groups()
        other = "right" if word.lower() == "left" else "left"
        if word.isupper():
            other = other.upper()
        elif word[0].isupper():
            other = other.capitalize()
        edits.append((match.start(), match.end(), len(other) - len(word)))
        return other + suffix

    return MirroredText(_SIDE.sub(exchange, text), tuple(edits))


class DirectionalCaption:
    """A BoxList field that holds a caption and follows the geometry of the picture: mirroring exchanges left and right.

    Args:
        caption: the text.
        tokens_positive: for every box, the spans of the caption that name it.
        greenlight_spans: spans that masked language modelling may use.
        is_mirrored: whether left and right have been exchanged.
    """

    def __init__(
        self,
        caption: str,
        tokens_positive: Sequence[Sequence[Span]],
        greenlight_spans: Sequence[Span] = (),
        is_mirrored: bool = False,
    ):
        self.caption = caption
        self.tokens_positive = tokens_positive
        self.greenlight_spans = greenlight_spans
        self.is_mirrored = is_mirrored

    def resize(self, size, *args, **kwargs) -> "DirectionalCaption":
        """A caption does not depend on the size."""
        return self

    def crop(self, box) -> "DirectionalCaption":
        """A caption is that of the whole picture."""
        return self

    def __getitem__(self, boxes) -> "DirectionalCaption":
        """The spans of dropped boxes stay, until the fields of all boxes are selected."""
        return self

    __iter__ = None  # not a sequence, in spite of the indexing

    def transpose(self, method: int) -> "DirectionalCaption":
        """The caption of the mirrored picture, or itself for a vertical flip."""
        if method != FLIP_LEFT_RIGHT:
            return self
        mirrored = mirror_text(self.caption)
        return DirectionalCaption(
            mirrored.text,
            [[mirrored.move(span) for span in spans] for spans in self.tokens_positive],
            [mirrored.move(span) for span in self.greenlight_spans],
            not self.is_mirrored,
        )


def transform_with_caption(
    transforms: Transform,
    image: Image.Image,
    target: BoxList,
    fields: dict[str, Any],
    greenlight_spans: Sequence[Span],
    text_maps: TextMaps | None,
) -> tuple[Image.Image | Tensor, BoxList, dict[str, Any]]:
    """Applies joint transforms; where they mirrored the picture, the caption and its maps follow.

    Args:
        fields: `caption`, `tokens_positive` and, if wanted, the maps, see ConvertCocoPolysToMask.
        greenlight_spans: of the caption.
        text_maps: makes the maps of a caption; None leaves the caption as it is.
    Returns: picture, boxes, fields.
    """
    if text_maps is None:
        image, target = transforms(image, target)
        return image, target, fields
    target.add_field(_CAPTION_FIELD, DirectionalCaption(fields["caption"], fields["tokens_positive"], greenlight_spans))
    image, target = transforms(image, target)
    directional = target.extra_fields.pop(_CAPTION_FIELD)
    if directional.is_mirrored:
        fields |= {"caption": directional.caption, "tokens_positive": directional.tokens_positive}
        if "positive_map" in fields:
            fields |= text_maps(directional.caption, directional.tokens_positive, directional.greenlight_spans, {})
    return image, target, fields
