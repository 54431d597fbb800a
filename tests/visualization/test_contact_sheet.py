"""Contact sheets: layout, scaling, text."""

import pytest
from PIL import Image

from maskrcnn_benchmark.visualization.contact_sheet import (
    FONT_SIZE,
    LINE_HEIGHT,
    MARGIN,
    TEXT_LINES,
    Sample,
    contact_sheet,
    wrapped,
)
from maskrcnn_benchmark.visualization.draw import font_for

RED = (250, 10, 20)


def sample(width: int = 50, height: int = 40) -> Sample:
    return Sample("title", "some text", Image.new("RGB", (width, height), RED))


@pytest.mark.parametrize(("count", "cells"), [(1, (1, 1)), (4, (4, 1)), (5, (4, 2)), (16, (4, 4))])
def test_size_of_the_sheet(count, cells):
    sheet = contact_sheet([sample()] * count, picture_size=(60, 50))
    cell = (60 + 2 * MARGIN, 50 + (1 + TEXT_LINES) * LINE_HEIGHT + 3 * MARGIN)
    assert sheet.size == (cells[0] * cell[0], cells[1] * cell[1])


def test_pictures_are_scaled_into_their_cells():
    sheet = contact_sheet([sample(400, 100), sample(10, 40)], picture_size=(60, 50))
    red = [(x, y) for x in range(sheet.width) for y in range(MARGIN + 50 + MARGIN) if sheet.getpixel((x, y)) == RED]
    wide = [point for point in red if point[0] < 60 + 2 * MARGIN]
    assert len(wide) == 60 * 15 and len(red) - len(wide) == 50 * 12


def test_boxes_are_scaled_with_the_picture():
    image = Image.new("RGB", (600, 500), RED)
    drawn = contact_sheet([Sample("", "", image, [[300, 100, 500, 400]], [""])], picture_size=(60, 50))
    changed = [x for x in range(60) if drawn.getpixel((MARGIN + x, MARGIN + 25)) != RED]
    assert abs(min(changed) - 30) <= 3 and abs(max(changed) - 50) <= 3


def test_what_could_not_be_read_is_an_empty_cell():
    sheet = contact_sheet([Sample("item 3", "cannot be read", None)], picture_size=(60, 50))
    assert sheet.getpixel((MARGIN + 30, MARGIN + 25)) == (255, 255, 255)


def test_no_samples():
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])


@pytest.mark.parametrize(
    "text", ["a red ball beside the blue cube " * 9, "x" * 500, "short", "", " ", "tab\tand\nline"]
)
def test_text_stays_within_its_width(text):
    lines = wrapped(text, 200, 3)
    assert len(lines) <= 3
    assert all(font_for(line, FONT_SIZE).getlength(line) <= 200 for line in lines)
    whole = " ".join(lines)
    assert whole == " ".join(text.split()) if len(text) < 100 else whole.endswith("...")
