"""Boxes with readable labels on a picture, drawn with Pillow alone.

The label of a box is text on a filled plate in the colour of its phrase, so it reads on any background. Plates stay
inside the frame and avoid each other; from one that had to move away a line leads to its box. Line width and letter
size follow the size of the picture.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]  # RGB, 0..255
Rect = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels

# Twelve colours that stay apart from each other in print, on a screen and under the common colour-vision deficiencies
# as far as twelve can; beyond them the hue walks on by the golden ratio.
_PALETTE: tuple[Color, ...] = (
    (230, 25, 75),
    (0, 130, 200),
    (60, 180, 75),
    (245, 130, 48),
    (145, 30, 180),
    (255, 225, 25),
    (70, 240, 240),
    (240, 50, 230),
    (0, 100, 80),
    (170, 110, 40),
    (128, 0, 0),
    (0, 0, 160),
)
_GOLDEN_RATIO = 0.618033988749895
_ELLIPSIS = "..."
# Placing a label: cost of a covered pixel of another label and of a small box, of each step away from the usual place
# (in plate areas), and up to how many plate areas a box counts as small.
LABEL_COST, FRAME_COST, STEP_COST, SMALL_FRAME = 500.0, 0.5, 0.02, 6
# Tried in this order for letters that the font inside Pillow lacks; a machine without them shows empty squares.
_FALLBACK_FONTS = ("NotoSans-Regular.ttf", "DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf")


def phrase_color(index: int) -> Color:
    """Colour number ``index`` (from 0): always the same, distinct from its neighbours, without end."""
    if index < len(_PALETTE):
        return _PALETTE[index]
    step = index - len(_PALETTE)
    hue = (0.07 + step * _GOLDEN_RATIO) % 1.0
    lightness, saturation = ((0.45, 0.9), (0.65, 0.75), (0.3, 0.8))[step % 3]
    return _hsl_to_rgb(hue, saturation, lightness)


def _hsl_to_rgb(hue: float, saturation: float, lightness: float) -> Color:
    chroma = saturation * min(lightness, 1 - lightness)

    def channel(offset: int) -> int:
        k = (offset + hue * 12) % 12
        return round(255 * (lightness - chroma * max(-1.0, min(k - 3, 9 - k, 1.0))))

    return channel(0), channel(8), channel(4)


def contrasting(color: Color) -> Color:
    """White where it reads well on ``color`` (WCAG contrast ratio of 4 or more), else black."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in color)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (255, 255, 255) if 1.05 / (luminance + 0.05) >= 4 else (0, 0, 0)


def label_text(text: str) -> str:
    """``text`` on one line of drawable characters: control characters and lone surrogates become spaces."""
    drawable = "".join(" " if not c.isprintable() or "\ud800" <= c <= "\udfff" else c for c in text)
    return " ".join(drawable.split())


@lru_cache(maxsize=64)
def default_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that comes with Pillow, ``size`` pixels high."""
    return ImageFont.load_default(size)


@lru_cache(maxsize=1024)
def font_for(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The default font, or a system font when the default lacks letters of ``text`` and a system font has more."""
    font = default_font(size)
    missing = _missing_letters(font, text)
    if not missing:
        return font
    for name in _FALLBACK_FONTS:
        try:
            candidate = ImageFont.truetype(name, size)
        except OSError:
            continue
        fewer = _missing_letters(candidate, text)
        if fewer < missing:
            font, missing = candidate, fewer
    return font


def _missing_letters(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str) -> int:
    """How many different letters of ``text`` the font draws as its empty square."""
    if text.isascii():
        return 0
    unknown = bytes(font.getmask("\uffff"))
    return sum(bytes(font.getmask(letter)) == unknown for letter in set(text) if not letter.isascii())


@dataclass(frozen=True)
class Style:
    """Sizes in pixels; ``for_size`` chooses them so that a picture looks the same at every resolution."""

    line_width: int
    font_size: int
    padding: int
    halo: int

    @classmethod
    def for_size(
        cls, width: int, height: int, *, line_width: int | None = None, font_size: int | None = None
    ) -> "Style":
        """Style of a picture of ``width`` x ``height`` pixels; the arguments override single sizes."""
        short = min(width, height)
        font_size = font_size or max(11, round(short / 36))
        return cls(
            line_width=line_width or max(2, round(short / 220)),
            font_size=font_size,
            padding=max(2, round(font_size / 6)),
            halo=max(1, round(short / 900)),
        )


def draw_boxes(
    image: Image.Image | np.ndarray,
    boxes: Sequence[Sequence[float]] | np.ndarray,
    labels: Sequence[str],
    *,
    scores: Sequence[float] | None = None,
    color_ids: Sequence[int] | None = None,
    line_width: int | None = None,
    font_size: int | None = None,
) -> Image.Image:
    """Returns a copy of ``image`` with every box outlined and labelled.

    Args:
        image: an RGB picture, as Pillow image or (H, W, 3) uint8 array; it is not changed.
        boxes: (K, 4) xyxy pixels; parts outside the picture are cut off, boxes wholly outside are left out.
        labels: K texts; any Unicode, an empty text draws no plate.
        scores: K numbers shown behind the labels with two digits.
        color_ids: K integers >= 0, boxes with the same id share a colour; by default equal labels share one.
        line_width, font_size: in pixels; by default they follow the size of the picture.
    Raises: ValueError if the lengths of the arguments differ.
    """
    picture = (Image.fromarray(image) if isinstance(image, np.ndarray) else image).convert("RGB")
    box_array = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    for name, values in (("labels", labels), ("scores", scores), ("color_ids", color_ids)):
        if values is not None and len(values) != len(box_array):
            raise ValueError(f"{len(box_array)} boxes but {len(values)} {name}")
    if color_ids is None:
        first_use: dict[str, int] = {}
        color_ids = [first_use.setdefault(label, len(first_use)) for label in labels]
    style = Style.for_size(*picture.size, line_width=line_width, font_size=font_size)
    width, height = picture.size
    visible = [
        index
        for index, (x1, y1, x2, y2) in enumerate(box_array)
        if np.isfinite(box_array[index]).all() and x2 >= 0 and y2 >= 0 and x1 <= width - 1 and y1 <= height - 1
    ]
    colors = {index: phrase_color(color_ids[index]) for index in visible}
    frames = {index: _inside(box_array[index], width, height) for index in visible}

    canvas = picture.copy()
    draw = ImageDraw.Draw(canvas)
    for index in sorted(visible, key=lambda i: -_area(frames[i])):  # small boxes end up on top
        _draw_frame(draw, frames[index], colors[index], style)

    order = visible if scores is None else sorted(visible, key=lambda i: -scores[i])  # the confident choose first
    texts = [label_text(labels[i]) if scores is None else f"{label_text(labels[i])} {scores[i]:.2f}" for i in order]
    layout = zip(order, layout_labels([frames[i] for i in order], texts, picture.size, style), strict=True)
    plates = [(placed, frames[index], colors[index]) for index, placed in layout if placed is not None]
    for placed, frame, color in plates:
        _draw_leader(draw, placed.rect, frame, color, style)
    for placed, _, color in plates:
        placed.draw(draw, color, style)
    return canvas


def _inside(box: np.ndarray, width: int, height: int) -> Rect:
    x1, y1 = np.clip(box[:2], 0, (width - 1, height - 1))
    x2, y2 = np.clip(box[2:], (x1, y1), (width - 1, height - 1))
    return float(x1), float(y1), float(x2), float(y2)


def _area(rect: Rect) -> float:
    return max(0.0, rect[2] - rect[0]) * max(0.0, rect[3] - rect[1])


def _draw_frame(draw: ImageDraw.ImageDraw, frame: Rect, color: Color, style: Style) -> None:
    """The outline in ``color`` between two hairlines of the contrasting shade, which keep it visible on its own hue."""
    x1, y1, x2, y2 = (round(value) for value in frame)
    width, halo = style.line_width, style.halo
    shade = tuple((c + 3 * s) // 4 for c, s in zip(color, contrasting(color), strict=True))
    draw.rectangle((x1 - halo, y1 - halo, x2 + halo, y2 + halo), outline=shade, width=width + 2 * halo)
    draw.rectangle((x1, y1, x2, y2), outline=color, width=width)


def _draw_leader(draw: ImageDraw.ImageDraw, plate: Rect, frame: Rect, color: Color, style: Style) -> None:
    """A line from a plate that had to move away to its box; nothing where the two touch."""
    ends = [_nearest(plate[i], plate[i + 2], frame[i], frame[i + 2]) for i in (0, 1)]  # ((x, x), (y, y))
    if max(abs(a - b) for a, b in ends) <= style.halo + 1:
        return
    line = tuple(zip(*ends, strict=True))
    width = max(1, style.line_width // 2)
    draw.line(line, fill=contrasting(color), width=width + 2 * style.halo)
    draw.line(line, fill=color, width=width)


def _nearest(low: float, high: float, other_low: float, other_high: float) -> tuple[float, float]:
    """The closest points of two intervals: equal, in the middle of what they share, where they overlap."""
    if high < other_low:
        return high, other_low
    if other_high < low:
        return low, other_high
    middle = (max(low, other_low) + min(high, other_high)) / 2
    return middle, middle


@dataclass(frozen=True)
class _Plate:
    """A label ready to be placed: its text, font, and size in pixels with the padding."""

    text: str
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont
    left: float
    top: float
    width: int
    height: int

    @classmethod
    def fit(cls, text: str, style: Style, max_width: int) -> "_Plate | None":
        """The plate of ``text``, shortened to ``max_width`` pixels; None when nothing of it can be shown."""
        if not text:
            return None
        font = font_for(text, style.font_size)
        room = max_width - 2 * style.padding
        if font.getlength(text) > room:
            low, high = 0, len(text)
            while low < high:  # the longest start of the text that fits together with the dots
                middle = (low + high + 1) // 2
                low, high = (middle, high) if font.getlength(text[:middle] + _ELLIPSIS) <= room else (low, middle - 1)
            if low == 0:
                return None
            text = text[:low] + _ELLIPSIS
        left, top, right, bottom = font.getbbox(text)
        _, usual_top, _, usual_bottom = font.getbbox("Agjp|")  # one height for all usual labels of a picture
        top, bottom = min(top, usual_top), max(bottom, usual_bottom)
        margin = 2 * style.padding
        return cls(text, font, left, top, ceil(right - left) + margin, ceil(bottom - top) + margin)


@dataclass(frozen=True)
class PlacedLabel:
    """A plate and the rectangle it fills."""

    plate: _Plate
    rect: Rect

    def draw(self, draw: ImageDraw.ImageDraw, color: Color, style: Style) -> None:
        """Fills the rectangle with ``color`` and writes the text on it."""
        x1, y1, x2, y2 = self.rect
        draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=color)
        origin = (x1 + style.padding - self.plate.left, y1 + style.padding - self.plate.top)
        draw.text(origin, self.plate.text, font=self.plate.font, fill=contrasting(color))


def layout_labels(
    frames: Sequence[Rect], texts: Sequence[str], size: tuple[int, int], style: Style
) -> list[PlacedLabel | None]:
    """A place for every text beside its frame, earlier ones first; None for a text that is empty or finds no room.

    frames: rectangles inside the picture of ``size`` (width, height).
    """
    labels: list[PlacedLabel | None] = []
    taken = np.zeros((0, 4))
    boxes = np.array(frames).reshape(-1, 4)
    for frame, text in zip(frames, texts, strict=True):
        plate = _Plate.fit(text.strip(), style, size[0])
        if plate is None or plate.height > size[1]:
            labels.append(None)
            continue
        rect = _place(plate, frame, style, size, taken, boxes)
        taken = np.vstack([taken, rect])
        labels.append(PlacedLabel(plate, rect))
    return labels


def _place(
    plate: _Plate, frame: Rect, style: Style, size: tuple[int, int], taken: np.ndarray, frames: np.ndarray
) -> Rect:
    """The place beside ``frame`` that covers least of the labels ``taken`` (N, 4) and of small boxes among ``frames``.

    Covering a label counts most; covering a box that is not much larger than the label, a little; and so does each step
    down the list of candidates, so that a label strays from its box only for a reason.
    """
    extent = np.array([plate.width, plate.height])
    corners = np.array(list(_candidates(plate, frame, style)))
    corners = np.clip(corners, 0, np.maximum(np.array(size) - extent, 0)).round()  # (candidates, 2)
    area = plate.width * plate.height
    small = frames[(frames[:, 2:] - frames[:, :2]).prod(-1) < SMALL_FRAME * area]
    cost = LABEL_COST * _covered(corners, extent, taken) + FRAME_COST * _covered(corners, extent, small)
    x, y = corners[(cost + STEP_COST * area * np.arange(len(corners))).argmin()].tolist()
    return x, y, x + plate.width, y + plate.height


def _covered(corners: np.ndarray, extent: np.ndarray, rects: np.ndarray) -> np.ndarray:
    """Pixels of ``rects`` (N, 4) under a plate of size ``extent`` (2,) at each of the ``corners`` (C, 2): (C,)."""
    upper = np.maximum(corners[:, None], rects[None, :, :2])
    lower = np.minimum(corners[:, None] + extent, rects[None, :, 2:])
    return (lower - upper).clip(0).prod(-1).sum(-1)


def _candidates(plate: _Plate, frame: Rect, style: Style) -> Iterator[tuple[float, float]]:
    """Upper left corners to try: the corners of the box outside, then inside, then steps along its left edge."""
    x1, y1, x2, y2 = frame
    left, right = x1 - style.halo, x2 + style.halo + 1 - plate.width
    above, below = y1 - style.halo - plate.height, y2 + style.halo + 1
    inner_top, inner_bottom = y1 - style.halo, y2 + style.halo + 1 - plate.height
    if above >= 0:
        yield left, above
    yield left, inner_top
    yield left, below
    yield right, above
    yield right, inner_top
    yield right, below
    yield left, inner_bottom
    yield right, inner_bottom
    for step in range(1, 9):
        yield left, above - step * plate.height
        yield left, inner_top + step * plate.height
        yield right, inner_top + step * plate.height
        yield left + step * plate.width / 2, above
