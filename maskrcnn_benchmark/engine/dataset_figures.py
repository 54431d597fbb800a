"""From detections on disk to the figures of a test set: which evaluator serves which dataset."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskrcnn_benchmark.engine.prediction_store import PredictionStore
from maskrcnn_benchmark.evaluation import CocoEvaluator, COCOResults, PhraseRecall
from maskrcnn_benchmark.evaluation.phrase_recall import phrase_ground_truth
from maskrcnn_benchmark.structures.bounding_box import BoxList

Result = tuple[COCOResults, dict[str, list]] | dict[str, float]

logger = logging.getLogger(__name__)


def evaluate_predictions(dataset, store: PredictionStore, cfg, task: str, output_folder: str | None) -> Result:
    """The figures of what is in the store, over the items that it has; files are written to `output_folder`."""
    if task == "grounding":
        return _evaluate_phrases(dataset, store, cfg, output_folder)
    return _evaluate_boxes(dataset, store, output_folder)


def figures_of(result: Result | None) -> dict[str, float]:
    """Figures by name from what `inference` returns."""
    if result is None:
        return {}
    return dict(result[0].results["bbox"]) if isinstance(result, tuple) else dict(result)


def _evaluate_boxes(dataset, store: PredictionStore, output_folder: str | None) -> Result:
    evaluator = CocoEvaluator(dataset.coco, dataset.contiguous_category_id_to_json_id)
    for index, detections in store:
        evaluator.update(dataset.id_to_img_map[index], detections)
    results = COCOResults("bbox")
    results.results["bbox"].update(evaluator.summarize())
    logger.info("%s", results)
    if output_folder:
        evaluator.write(output_folder, results.results["bbox"])
        save_in_one_step([boxes for _, boxes in store], Path(output_folder, "predictions.pth"))
    return results, {"bbox": evaluator.results()}


def _evaluate_phrases(dataset, store: PredictionStore, cfg, output_folder: str | None) -> Result:
    recall = PhraseRecall(merge_boxes=cfg.DATASETS.FLICKR_GT_TYPE == "merged")
    for index, detections in store:
        record = dataset.get_img_info(index)
        ground_truth = phrase_ground_truth(record, dataset.coco.imgToAnns[record["id"]])
        in_picture = detections.resize((record["width"], record["height"]))
        recall.update(record["id"], boxes_by_label(in_picture, len(ground_truth)), ground_truth)
    figures = recall.summarize()
    for name, value in figures.items():
        logger.info("%s: %.4f", name, value)
    if output_folder:
        _write_figures(output_folder, figures)
    return figures


def boxes_by_label(detections: BoxList, num_labels: int) -> list[Tensor]:
    """For each label 1, 2, ... its boxes (N, 4), the best score first."""
    order = detections.get_field("scores").argsort(descending=True, stable=True)
    boxes, labels = detections.bbox[order], detections.get_field("labels")[order]
    return [boxes[labels == label] for label in range(1, num_labels + 1)]


def save_in_one_step(value: Any, path: Path) -> None:
    """torch.save whose file is complete as soon as it has its name."""
    part = path.with_name(f"{path.name}.part")
    torch.save(value, part)
    os.replace(part, path)


def _write_figures(folder: str, figures: Mapping[str, float]) -> None:
    path = Path(folder, "metrics.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(figures), indent=2) + "\n", encoding="utf-8")


def check_expected_results(
    results: COCOResults, expected: Sequence[tuple[str, str, tuple[float, float]]], sigma_tolerance: float
) -> None:
    """Logs for every (kind, metric, (mean, deviation)) of TEST.EXPECTED_RESULTS whether the figure is near enough."""
    for kind, metric, (mean, deviation) in expected:
        actual = results.results[kind][metric]
        is_near = abs(actual - mean) < sigma_tolerance * deviation
        log = logger.info if is_near else logger.error
        verdict = "PASS" if is_near else "FAIL"
        log("%s: %s > %s, %.4f, expected %.4f +- %.4f", verdict, kind, metric, actual, mean, deviation)
