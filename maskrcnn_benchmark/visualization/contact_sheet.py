"""Many labelled pictures on one: what a dataset looks like, at a glance."""

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from maskrcnn_benchmark.visualization.draw import draw_boxes, font_for, label_text

BACKGROUND, INK, FAINT = (255, 255, 255), (20, 20, 20), (120, 120, 120)  # RGB
MARGIN, FONT_SIZE, LINE_HEIGHT = 8, 13, 17  # pixels
TEXT_LINES = 4
_ELLIPSIS = "..."


class Sample(NamedTuple):
    """One picture of a sheet.

    Attributes:
        title: one line above the text.
        text: shown below the picture, on at most TEXT_LINES lines.
        image: None where it could not be read.
        boxes: (K, 4) xyxy pixels of the image; labels: K texts.
    """

    title: str
    text: str
    image: Image.Image | None
    boxes: Sequence[Sequence[float]] = ()
    labels: Sequence[str] = ()


def contact_sheet(
    samples: Sequence[Sample], *, columns: int = 4, picture_size: tuple[int, int] = (480, 360)
) -> Image.Image:
    """All samples in rows of `columns`, each picture scaled into (width, height) pixels.

    Raises: ValueError without a sample.
    """
    if not samples:
        raise ValueError("a contact sheet needs at least one sample")
    columns = min(columns, len(samples))
    cell_width = picture_size[0] + 2 * MARGIN
    cell_height = picture_size[1] + (1 + TEXT_LINES) * LINE_HEIGHT + 3 * MARGIN
    rows = -(-len(samples) // columns)
    sheet = Image.new("RGB", (columns * cell_width, rows * cell_height), BACKGROUND)
    for number, sample in enumerate(samples):
        row, column = divmod(number, columns)
        _draw_sample(sheet, sample, (column * cell_width + MARGIN, row * cell_height + MARGIN), picture_size)
    return sheet


def _draw_sample(sheet: Image.Image, sample: Sample, corner: tuple[int, int], size: tuple[int, int]) -> None:
    x, y = corner
    draw = ImageDraw.Draw(sheet)
    if sample.image is None:
        draw.rectangle((x, y, x + size[0] - 1, y + size[1] - 1), outline=FAINT)
    else:
        picture = _scaled(sample.image, sample.boxes, sample.labels, size)
        sheet.paste(picture, (x + (size[0] - picture.width) // 2, y + (size[1] - picture.height) // 2))
    y += size[1] + MARGIN
    lines = [*wrapped(sample.title, size[0], 1), *wrapped(sample.text, size[0], TEXT_LINES)]
    for number, line in enumerate(lines):
        color = FAINT if number == 0 else INK
        draw.text((x, y + number * LINE_HEIGHT), line, font=font_for(line, FONT_SIZE), fill=color)


def _scaled(
    image: Image.Image, boxes: Sequence[Sequence[float]], labels: Sequence[str], size: tuple[int, int]
) -> Image.Image:
    """The labelled picture, as large as fits."""
    ratio = min(size[0] / image.width, size[1] / image.height)
    fitted = image.resize((max(1, round(image.width * ratio)), max(1, round(image.height * ratio))))
    return draw_boxes(fitted, [[value * ratio for value in box] for box in boxes], labels, font_size=FONT_SIZE)


def wrapped(text: str, width: int, max_lines: int) -> list[str]:
    """The text in lines of at most `width` pixels; what does not fit on `max_lines` is cut off and marked by dots."""
    lines: list[str] = []
    words = label_text(text).split(" ") if text.strip() else []
    while words and len(lines) < max_lines:
        count = 1
        while count < len(words) and _fits(" ".join(words[: count + 1]), width):
            count += 1
        lines.append(" ".join(words[:count]))
        words = words[count:]
    if lines and words:
        lines[-1] += _ELLIPSIS
    return [_shortened(line, width) for line in lines]


def _fits(line: str, width: int) -> bool:
    return font_for(line, FONT_SIZE).getlength(line) <= width


def _shortened(line: str, width: int) -> str:
    if _fits(line, width):
        return line
    line = line.removesuffix(_ELLIPSIS)
    while line and not _fits(line + _ELLIPSIS, width):
        line = line[:-1]
    return line + _ELLIPSIS
