"""Drawing: what must be visible, what must stay inside, and what must not crash."""

import numpy as np
import pytest
from PIL import Image

from maskrcnn_benchmark.visualization.draw import (
    Style,
    contrasting,
    draw_boxes,
    label_text,
    layout_labels,
    phrase_color,
)


def _noise(width=200, height=150):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _contrast_ratio(a, b):
    def luminance(color):
        linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in color)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_frame_has_the_colour_of_its_phrase_and_input_is_untouched():
    image = np.full((150, 200, 3), 255, np.uint8)
    result = np.asarray(draw_boxes(image, [(20, 60, 120, 140)], [""]))
    assert tuple(result[100, 20]) == phrase_color(0)
    assert tuple(result[140, 70]) == phrase_color(0)
    assert tuple(result[100, 70]) == (255, 255, 255)  # the inside stays visible
    assert (image == 255).all()


def test_equal_labels_share_a_colour_and_ids_override():
    image = np.zeros((150, 200, 3), np.uint8)
    boxes = [(5, 60, 50, 140), (70, 60, 110, 140), (130, 60, 190, 140)]
    result = np.asarray(draw_boxes(image, boxes, ["cup", "dog", "cup"]))
    assert [tuple(result[100, x]) for x in (5, 70, 130)] == [phrase_color(0), phrase_color(1), phrase_color(0)]
    result = np.asarray(draw_boxes(image, boxes, ["a", "b", "c"], color_ids=[4, 4, 30]))
    assert [tuple(result[100, x]) for x in (5, 70, 130)] == [phrase_color(4), phrase_color(4), phrase_color(30)]


def test_palette_is_distinct_and_text_contrasts():
    colors = [phrase_color(i) for i in range(60)]
    assert len(set(colors)) == 60
    near = np.abs(np.array(colors[:12])[:, None] - np.array(colors[:12])[None]).sum(-1)
    assert near[~np.eye(12, dtype=bool)].min() > 80
    assert min(_contrast_ratio(color, contrasting(color)) for color in colors) >= 4


@pytest.mark.parametrize("size", [(640, 480), (200, 150), (1333, 800)])
def test_labels_stay_inside_and_do_not_overlap(size):
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 1, (12, 2)) * np.array(size)
    frames = [(x, y, min(x + size[0] / 5, size[0] - 1), min(y + size[1] / 5, size[1] - 1)) for x, y in corner]
    frames += [(0, 0, size[0] - 1, size[1] - 1)]
    labels = layout_labels(frames, ["cat 0.50"] * len(frames), size, Style.for_size(*size))
    rects = [label.rect for label in labels]
    for x1, y1, x2, y2 in rects:
        assert 0 <= x1 < x2 <= size[0] and 0 <= y1 < y2 <= size[1]
    for i, a in enumerate(rects):
        for b in rects[:i]:
            assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])


def test_long_label_is_shortened_to_the_frame():
    style = Style.for_size(200, 150)
    (label,) = layout_labels([(10, 50, 60, 100)], ["a very long phrase " * 20], (200, 150), style)
    assert label.plate.text.endswith("...") and label.rect[0] >= 0 and label.rect[2] <= 200
    image = np.zeros((150, 200, 3), np.uint8)
    assert np.asarray(draw_boxes(image, [(10, 50, 60, 100)], ["a very long phrase " * 20])).any()


@pytest.mark.parametrize(
    "text", ["猫と犬", "кот", "🐱🚦 emoji", "مرحبا", "\ud83d lone", "tab\tnew\nline\x00null", "a\u0301 combining", ""]
)
def test_any_unicode_is_drawn(text):
    draw_boxes(_noise(), [(20, 40, 120, 140)], [text], scores=[0.5])


def test_label_text_is_one_drawable_line():
    assert label_text("tab\tnew\nline\x00  end \udc80") == "tab new line end"


def test_boxes_partly_wholly_outside_degenerate_and_not_finite():
    image = np.zeros((50, 60, 3), np.uint8)
    boxes = [(-20, -20, 10, 10), (500, 500, 600, 600), (5, 5, 5, 5), (30, 30, 20, 20), (float("nan"), 0, 5, 5)]
    result = draw_boxes(image, boxes, ["a"] * 5, scores=[0.1] * 5)
    assert result.size == (60, 50)
    only_outside = draw_boxes(image, [boxes[1], boxes[4]], ["a", "b"])
    assert not np.asarray(only_outside).any()


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (400, 3), (16, 16)])
def test_tiny_pictures(size):
    result = draw_boxes(Image.new("RGB", size), [(0, 0, size[0] - 1, size[1] - 1)], ["person"], scores=[1.0])
    assert result.size == size


def test_line_width_and_letters_follow_the_size():
    small, large = Style.for_size(640, 480), Style.for_size(4000, 3000)
    assert large.line_width >= 5 * small.line_width and large.font_size >= 5 * small.font_size


def test_lengths_that_differ_are_an_error():
    with pytest.raises(ValueError, match="1 boxes but 2 labels"):
        draw_boxes(_noise(), [(0, 0, 5, 5)], ["a", "b"])
    with pytest.raises(ValueError, match="1 boxes but 0 scores"):
        draw_boxes(_noise(), [(0, 0, 5, 5)], ["a"], scores=[])


def test_no_boxes_returns_a_copy():
    image = _noise()
    assert (np.asarray(draw_boxes(image, [], [])) == image).all()
    assert (np.asarray(draw_boxes(image, np.zeros((0, 4)), [], scores=[])) == image).all()


def test_labels_leave_small_boxes_in_sight():
    size = (640, 480)
    frames = [(300.0, 200.0, 340.0, 230.0), (310.0, 180.0, 335.0, 198.0), (300.0, 232.0, 330.0, 250.0)]
    labels = layout_labels(frames, ["boat 0.90", "star 0.80", "cup 0.70"], size, Style.for_size(*size))
    for label in labels:
        x1, y1, x2, y2 = label.rect
        for frame in frames:
            width = max(0.0, min(x2, frame[2]) - max(x1, frame[0]))
            height = max(0.0, min(y2, frame[3]) - max(y1, frame[1]))
            assert width * height <= 0.25 * (frame[2] - frame[0]) * (frame[3] - frame[1])


def test_a_line_leads_from_a_label_that_moved_away_to_its_box():
    size = (640, 480)
    frames = [(300.0, 200.0, 330.0, 220.0)] * 14
    style = Style.for_size(*size)
    far = [
        label.rect
        for label in layout_labels(frames, ["boat 0.90"] * 14, size, style)
        if label.rect[3] < 200 - 3 * style.font_size or label.rect[1] > 220 + 3 * style.font_size
    ]
    assert far, "so many labels cannot all touch the box"
    result = np.asarray(draw_boxes(Image.new("RGB", size, "white"), frames, ["boat"] * 14, scores=[0.9] * 14))
    for x1, y1, x2, y2 in far:
        row = int(y2) + 2 if y2 < 200 else int(y1) - 3  # just outside of the plate, on the side of the box
        beside = result[row, int(x1) : int(x2)].astype(int)
        assert (beside == phrase_color(0)).all(-1).any()


def test_no_line_where_a_label_touches_its_box():
    image = Image.new("RGB", (200, 150))
    result = np.array(draw_boxes(image, [(60, 60, 140, 120)], ["cup"]))
    (label,) = layout_labels([(60, 60, 140, 120)], ["cup"], image.size, Style.for_size(*image.size))
    x1, y1, x2, y2 = (int(value) for value in label.rect)
    assert y2 <= 60
    result[y1:y2, x1:x2] = 0
    assert not result[:57].any()
