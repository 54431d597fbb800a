"""A page on an evaluation: figures, precision over recall, classes, confusions, and the worst images."""

import base64
import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskrcnn_benchmark.data.datasets.image_file import read_rgb
from maskrcnn_benchmark.evaluation.average_precision import RECALLS
from maskrcnn_benchmark.evaluation.coco import CocoEvaluator
from maskrcnn_benchmark.evaluation.judged_images import JudgedImages
from maskrcnn_benchmark.evaluation.lvis import LvisEvaluator
from maskrcnn_benchmark.evaluation.mistakes import (
    NOTHING,
    JudgedImage,
    Mistakes,
    Verdict,
    confused_names,
    find_mistakes,
)
from maskrcnn_benchmark.evaluation.voc import VocEvaluator
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils.complete_files import atomic_path, write_complete
from maskrcnn_benchmark.visualization.charts import bar_chart, heat_map, line_chart
from maskrcnn_benchmark.visualization.contact_sheet import Sample, contact_sheet
from maskrcnn_benchmark.visualization.draw import draw_boxes

PAGE, PICTURE, PER_CLASS, CONFUSIONS = "report.html", "report.png", "per_class.csv", "confusions.csv"
MAX_BARS, MAX_NAMES, NUM_WORST = 100, 20, 24
PANEL = 420  # pixels, the longer side of a drawn picture
RIGHT, WRONG, MISSED = 2, 0, 3  # numbers of colours: green, red, orange
Curve = tuple[Sequence[float], Sequence[float]]  # recall, precision

STYLE = """
body { font-family: sans-serif; color: #222; max-width: 1180px; margin: 24px auto; padding: 0 16px; }
table { border-collapse: collapse; } td, th { padding: 2px 12px 2px 0; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; } .worst { display: grid; grid-template-columns: 1fr 1fr; gap: 20px; }
figure { margin: 0; } figure img { max-width: 100%; } figcaption, .note { color: #666; font-size: 13px; }
@media (max-width: 900px) { .worst { grid-template-columns: 1fr; } }
"""


@dataclass(frozen=True)
class Report:
    """What goes on the page.

    Attributes:
        title: names the model and the test set.
        figures: by name; -1 stands for nothing to measure.
        per_class: figure -> {class: value}, NaN or -1 where there is nothing; the first one is drawn.
        curves: name -> (recall, precision).
        images: what was found in the images, looked through twice; none for a page without mistakes.
    """

    title: str
    figures: Mapping[str, float]
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    images: Iterable[JudgedImage] = ()

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Writes report.html, report.png (the worst images), per_class.csv and confusions.csv; returns the page."""
        folder = Path(folder)
        mistakes = find_mistakes(self.images, NUM_WORST)
        panels = [draw_mistakes(image, verdict) for image, verdict in mistakes.worst]
        write_complete(folder / PAGE, self._page(mistakes, panels))
        if panels:
            samples = [
                Sample(image.title, describe(image, verdict), panel)
                for (image, verdict), panel in zip(mistakes.worst, panels, strict=True)
            ]
            size = (max(panel.width for panel in panels), max(panel.height for panel in panels))
            with atomic_path(folder / PICTURE) as part:
                contact_sheet(samples, columns=2, picture_size=size).save(part, format="PNG")
        names = list(dict.fromkeys(name for values in self.per_class.values() for name in values))
        columns = list(self.per_class.values())
        _write_csv(
            folder / PER_CLASS,
            ["class", *self.per_class],
            ([name, *(values.get(name, math.nan) for values in columns)] for name in names),
        )
        _write_csv(
            folder / CONFUSIONS,
            ["thing", "found as", "times"],
            ([*pair, times] for pair, times in mistakes.confusions.most_common()),
        )
        return folder / PAGE

    def _page(self, mistakes: Mistakes, panels: Sequence[Image.Image]) -> str:
        sections = [("Figures", figure_table(self.figures))]
        if self.curves:
            sections.append(("Precision over recall", line_chart(self.curves, "recall", "precision")))
        if self.per_class:
            sections.append(_bars(*next(iter(self.per_class.items()))))
        if mistakes.confusions:
            sections.append(("Phrases taken for each other", _confusions(mistakes)))
        if panels:
            sections.append((f"The {len(panels)} worst images", _worst(mistakes, panels)))
        body = "".join(f"<h2>{escape(title)}</h2>\n{content}\n" for title, content in sections)
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(self.title)}</title><style>{STYLE}</style></head>\n"
            f"<body><h1>{escape(self.title)}</h1>\n{body}</body></html>\n"
        )


def mean_curves(precision: np.ndarray, recalls: np.ndarray) -> dict[str, Curve]:
    """Precision (T, R, K) over overlaps 0.5, 0.55, ..., recalls (R,) and classes, -1 without ground truth, as the mean
    over classes at overlap 0.5, at 0.75, and over all overlaps.
    """
    valid = precision[:, :, (precision > -1).all((0, 1))]
    if not valid.size:
        return {}
    lines = {"IoU 0.50": valid[0], "IoU 0.75": valid[5], "mean of IoU 0.50 to 0.95": valid.mean(0)}
    return {name: (recalls.tolist(), values.mean(1).tolist()) for name, values in lines.items()}


def write_detection_report(
    folder: str | os.PathLike[str],
    title: str,
    dataset: Any,
    predictions: Iterable[tuple[int, BoxList]],
    figures: Mapping[str, float],
    evaluator: CocoEvaluator | LvisEvaluator,
) -> None:
    """The page on boxes found in a dataset, if it has pictures in files.

    Args:
        predictions: pairs of dataset index and boxes, looked through twice.
        figures: what the evaluator has computed.
    """
    if JudgedImages.supports(dataset):
        curves = mean_curves(evaluator.mean_precision(), RECALLS)
        Report(title, figures, evaluator.table, curves, JudgedImages(dataset, predictions)).write(folder)


def write_voc_report(
    folder: str | os.PathLike[str],
    title: str,
    dataset: Any,
    predictions: Iterable[tuple[int, BoxList]],
    figures: Mapping[str, float],
    evaluator: VocEvaluator,
) -> None:
    """The page on boxes that were found in a dataset in VOC's format; arguments as of `write_detection_report`."""
    found = [curve for name, curve in evaluator.curves.items() if evaluator.table["objects"].get(name)]
    best = [[precision[recall >= point].max(initial=0.0) for point in RECALLS] for precision, recall in found]
    curves = {"mean over classes, IoU 0.50": (RECALLS.tolist(), np.mean(best, axis=0).tolist())} if best else {}
    Report(title, figures, evaluator.table, curves, JudgedImages(dataset, predictions)).write(folder)


def write_phrase_report(
    folder: str | os.PathLike[str],
    title: str,
    dataset: Any,
    predictions: Iterable[tuple[int, BoxList]],
    figures: Mapping[str, float],
) -> None:
    """The page on phrases found in sentences: recall by k and type."""
    by_k: dict[str, dict[str, float]] = {}
    for name, value in figures.items():
        k, _, kind = name.rpartition("_")
        by_k.setdefault(k, {})[kind] = value
    Report(title, figures, by_k, {}, JudgedImages(dataset, predictions)).write(folder)


def figure_table(figures: Mapping[str, float]) -> str:
    """A row for every figure."""
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="number">{"-" if value < 0 else f"{value:.4f}"}</td></tr>'
        for name, value in figures.items()
    )
    return f"<table>{rows}</table>"


def _bars(name: str, values: Mapping[str, float]) -> tuple[str, str]:
    known = {key: value for key, value in values.items() if value >= 0}
    drawn = dict(sorted(known.items(), key=lambda item: -item[1]))
    note = f"Classes without ground truth, which are left out: {len(values) - len(known)}."
    if len(drawn) > MAX_BARS:
        keys = list(drawn)
        drawn = {key: drawn[key] for key in (*keys[: MAX_BARS // 2], *keys[-MAX_BARS // 2 :])}
        note = f"The {MAX_BARS // 2} best and the {MAX_BARS // 2} worst of {len(known)} classes. {note}"
    return f"{name} by class", f'<p class="note">{note} All: {PER_CLASS}</p>{bar_chart(drawn)}'


def _confusions(mistakes: Mistakes) -> str:
    names = [*confused_names(mistakes.confusions, MAX_NAMES), NOTHING]
    counts = [[mistakes.confusions[truth, given] for given in names] for truth in names]
    return (
        f'<p class="note">Rows: what is there, columns: what it was found as, at an overlap of 0.5, for detections '
        f"with a score of {mistakes.threshold:.3f} or more, which gives the best F1 ({mistakes.f1:.3f}). The "
        f'{len(names) - 1} names with the most mistakes; all: {CONFUSIONS}</p><div class="scroll">'
        f"{heat_map(names, names, counts)}</div>"
    )


def _worst(mistakes: Mistakes, panels: Sequence[Image.Image]) -> str:
    figures = "".join(
        f'<figure><img src="data:image/jpeg;base64,{_jpeg(panel)}" alt=""><figcaption>{escape(image.title)}<br>'
        f"{escape(describe(image, verdict))}</figcaption></figure>"
        for (image, verdict), panel in zip(mistakes.worst, panels, strict=True)
    )
    return (
        '<p class="note">Left: what is there, green where it was found, orange where not. Right: what was found, green '
        f'where it is right, red where not.</p><div class="worst">{figures}</div>'
    )


def describe(image: JudgedImage, verdict: Verdict) -> str:
    """How many things were found, how many detections are wrong."""
    return (
        f"{int(verdict.is_found.sum())} of {len(image.truth_names)} found, {int((~verdict.is_right).sum())} of "
        f"{len(image.names)} detections wrong"
    )


def draw_mistakes(image: JudgedImage, verdict: Verdict) -> Image.Image:
    """What is there, and beside it what was found; grey where the picture cannot be read."""
    try:
        picture = read_rgb(image.path)
    except (OSError, ValueError):
        extent = np.concatenate([image.truth_boxes, image.boxes, [[0, 0, 100, 100]]])[:, 2:].max(0)
        picture = Image.new("RGB", (int(extent[0]), int(extent[1])), (190, 190, 190))
    scale = min(1.0, PANEL / max(picture.size))
    picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    truth = draw_boxes(
        picture,
        image.truth_boxes * scale,
        image.truth_names,
        color_ids=[RIGHT if found else MISSED for found in verdict.is_found],
        font_size=12,
    )
    found = draw_boxes(
        picture,
        image.boxes * scale,
        image.names,
        scores=image.scores.tolist(),
        color_ids=[RIGHT if right else WRONG for right in verdict.is_right],
        font_size=12,
    )
    both = Image.new("RGB", (2 * picture.width + 6, picture.height), (255, 255, 255))
    both.paste(truth, (0, 0))
    both.paste(found, (picture.width + 6, 0))
    return both


def _jpeg(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with atomic_path(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
