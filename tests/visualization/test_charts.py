"""Charts as SVG: well-formed, with the values where they belong."""

from xml.etree import ElementTree

import pytest

from maskrcnn_benchmark.visualization.charts import bar_chart, heat_map, line_chart

SVG = "{http://www.w3.org/2000/svg}"


def texts(root) -> list[str]:
    return [element.text for element in root.iter(f"{SVG}text")]


def test_lines_go_from_corner_to_corner():
    root = ElementTree.fromstring(line_chart({"<best>": ([0.0, 1.0], [1.0, 0.0])}, "recall", "precision & more"))
    (line,) = root.iter(f"{SVG}polyline")
    (x1, y1), (x2, y2) = ([float(value) for value in point.split(",")] for point in line.get("points").split())
    grid = [element for element in root.iter(f"{SVG}line") if element.get("stroke") == "#ddd"]
    assert x1 == min(float(element.get("x1")) for element in grid) and x2 == max(float(e.get("x2")) for e in grid)
    assert (y1, y2) == (min(float(e.get("y1")) for e in grid), max(float(e.get("y1")) for e in grid))
    assert {"<best>", "recall", "precision & more", "0.2"} <= set(texts(root))


def test_bars_are_as_long_as_their_values():
    root = ElementTree.fromstring(bar_chart({"cat": 1.0, "a very long name of a class " * 9: 0.25, "none": -1.0}))
    full, quarter, nothing = (float(bar.get("width")) for bar in root.iter(f"{SVG}rect"))
    assert quarter == pytest.approx(full / 4, abs=0.1) and nothing == 0
    assert "0.250" in texts(root) and any(text.endswith("\N{HORIZONTAL ELLIPSIS}") for text in texts(root))


@pytest.mark.parametrize(
    ("name", "pixels"), [("mushroom", 64.5), ("WWWW", 47.6), ("illicit", 24.2), ("\u8611\u83c7", 24)]
)
def test_names_have_room_beside_their_bars(name, pixels):
    """Their widths in DejaVu Sans, which browsers without other fonts take."""
    root = ElementTree.fromstring(bar_chart({name: 0.5}))
    text, (bar,) = next(root.iter(f"{SVG}text")), root.iter(f"{SVG}rect")
    assert text.text == name and pixels < float(text.get("x")) < float(bar.get("x"))


def test_heat_map_shades_by_the_share_of_the_row():
    root = ElementTree.fromstring(heat_map(["cat", "dog"], ["cat", "dog", "(nothing)"], [[3, 1, 0], [0, 0, 2500]]))
    colors = [cell.get("fill") for cell in root.iter(f"{SVG}rect")]
    assert len(colors) == 6 and colors[2] == colors[3] and colors[5] == "#00529b" and colors[0] != colors[1]
    assert {"3", "1", "2k"} <= set(texts(root)) and "0" not in texts(root)
    assert "cat \N{RIGHTWARDS ARROW} dog: 1 of 4" in [element.text for element in root.iter(f"{SVG}title")]


def test_nothing_to_draw():
    for chart in (bar_chart({}), heat_map([], [], []), line_chart({}, "", "")):
        root = ElementTree.fromstring(chart)
        assert root.tag == f"{SVG}svg" and float(root.get("width")) > 0 and float(root.get("height")) > 0
        assert not list(root.iter(f"{SVG}rect")) and not list(root.iter(f"{SVG}polyline"))
