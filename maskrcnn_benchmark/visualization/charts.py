"""Small charts as SVG text, for pages that need nothing else."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from maskrcnn_benchmark.visualization.draw import Color, phrase_color

FONT = 'font-family="sans-serif" font-size="12"'
INK, FAINT, GRID, BAR = "#222", "#777", "#ddd", "#0082c8"
NARROW, BROAD = "fijlrtI.,:;!|'()[]-/ ", "mwMW@%"
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
LONGEST_LABEL = 170  # pixels of a name beside a table
WIDTH = 560  # pixels of a chart of lines or bars
LEFT, TOP, BOTTOM = 56, 16, 44  # pixels around the plot of a line chart
BAR_HEIGHT, CELL = 18, 34  # pixels
TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def line_chart(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], x_title: str, y_title: str) -> str:
    """Lines of points (x, y), both in 0..1, with a legend of their names."""
    plot = WIDTH - LEFT - 12
    height = TOP + plot * 2 // 3 + BOTTOM + 18 * len(lines)
    bottom = TOP + plot * 2 // 3

    def place(x: float, y: float) -> tuple[float, float]:
        return round(LEFT + x * plot, 1), round(bottom - y * (bottom - TOP), 1)

    parts = []
    for tick in TICKS:
        x, y = place(tick, tick)
        parts.append(_line(LEFT, y, LEFT + plot, y, GRID) + _line(x, TOP, x, bottom, GRID))
        parts.append(_text(LEFT - 8, y + 4, f"{tick:.1f}", anchor="end") + _text(x, bottom + 16, f"{tick:.1f}"))
    parts.append(_text(LEFT + plot / 2, bottom + 34, x_title))
    parts.append(
        f'<text {FONT} fill="{INK}" text-anchor="middle" transform="translate(14 {(TOP + bottom) / 2}) rotate(-90)">'
        f"{escape(y_title)}</text>"
    )
    for number, (name, (xs, ys)) in enumerate(lines.items()):
        color = _hex(phrase_color(number))
        points = " ".join(f"{x},{y}" for x, y in (place(x, y) for x, y in zip(xs, ys, strict=True)))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        y = bottom + BOTTOM + 18 * number + 6
        parts.append(_line(LEFT, y, LEFT + 24, y, color, 3) + _text(LEFT + 32, y + 4, name, anchor="start"))
    return _svg(WIDTH, height, parts)


def bar_chart(values: Mapping[str, float]) -> str:
    """A horizontal bar for every value in 0..1, with its name and number."""
    label = min(WIDTH // 2, 12 + _longest(values))
    room = WIDTH - label - 60
    parts = []
    for number, (name, value) in enumerate(values.items()):
        y = number * BAR_HEIGHT
        parts.append(_text(label - 6, y + 13, _shortened(name, label - 12), anchor="end", title=name))
        length = round(room * min(max(value, 0.0), 1.0), 1)
        parts.append(f'<rect x="{label}" y="{y + 3}" width="{length}" height="{BAR_HEIGHT - 6}" fill="{BAR}"/>')
        parts.append(_text(label + length + 6, y + 13, f"{value:.3f}", anchor="start"))
    return _svg(WIDTH, BAR_HEIGHT * len(values) + 4, parts)


def heat_map(rows: Sequence[str], columns: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """A table of counts; the darker a cell, the larger its share of the row."""
    left, top = (14 + min(LONGEST_LABEL, _longest(names)) for names in (rows, columns))
    parts = []
    for number, name in enumerate(columns):
        x = left + CELL * number + CELL / 2 + 4
        parts.append(
            f'<text {FONT} fill="{INK}" transform="translate({x} {top - 6}) rotate(-90)">'
            f"{escape(_shortened(name, LONGEST_LABEL))}<title>{escape(name)}</title></text>"
        )
    for row, name in enumerate(rows):
        y = top + CELL * row
        parts.append(_text(left - 6, y + CELL / 2 + 4, _shortened(name, LONGEST_LABEL), anchor="end", title=name))
        total = sum(counts[row])
        for column, count in enumerate(counts[row]):
            share = count / total if total else 0.0
            x = left + CELL * column
            tip = f"{name} \N{RIGHTWARDS ARROW} {columns[column]}: {count} of {total}"
            parts.append(
                f'<rect x="{x}" y="{y}" width="{CELL - 1}" height="{CELL - 1}" fill="{_shade(share)}">'
                f"<title>{escape(tip)}</title></rect>"
            )
            if count:
                color = "#fff" if share > 0.5 else INK
                parts.append(_text(x + CELL / 2, y + CELL / 2 + 4, _short_count(count), color=color))
    return _svg(left + CELL * len(columns) + 4, top + CELL * len(rows) + 4, parts)


def _short_count(count: int) -> str:
    return str(count) if count < 1000 else f"{count / 1000:.0f}k"


def _shade(share: float) -> str:
    white, dark = (246, 248, 250), (0, 82, 155)
    red, green, blue = (round(w + (d - w) * share) for w, d in zip(white, dark, strict=True))
    return _hex((red, green, blue))


def _hex(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _width(text: str) -> float:
    """Pixels of a text at the font size of the charts in a broad font, rather too many than too few."""
    return sum(
        6 if letter in NARROW else 12 if letter in BROAD or not letter.isascii() else 9.5 if letter.isupper() else 8
        for letter in text
    )


def _longest(names: Iterable[str]) -> int:
    return round(max(map(_width, names), default=0))


def _shortened(text: str, room: float) -> str:
    """The text, or as much of it as fits into so many pixels."""
    if _width(text) <= room + 0.5:
        return text
    length = len(text) - 1
    while length > 1 and _width(text[:length] + ELLIPSIS) > room:
        length -= 1
    return text[:length] + ELLIPSIS


def _line(x1: float, y1: float, x2: float, y2: float, color: str, width: int = 1) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{color}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "middle", color: str = INK, title: str = "") -> str:
    tip = f"<title>{escape(title)}</title>" if title else ""
    return f'<text x="{x}" y="{y}" {FONT} fill="{color}" text-anchor="{anchor}">{escape(text)}{tip}</text>'


def _svg(width: float, height: float, parts: Iterable[str]) -> str:
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">{"".join(parts)}</svg>'
