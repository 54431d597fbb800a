"""From detections on disk to the figures of a test set: which evaluator serves which dataset."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskrcnn_benchmark.config import try_to_find
from maskrcnn_benchmark.data.datasets.lvis import LvisDetection
from maskrcnn_benchmark.data.datasets.modulated import FlickrDataset, GroundingJson
from maskrcnn_benchmark.engine.testing.prediction_store import PredictionStore
from maskrcnn_benchmark.evaluation import LVIS, COCOResults, LvisEvaluator, PhraseRecall
from maskrcnn_benchmark.evaluation.dispatch import evaluate
from maskrcnn_benchmark.evaluation.expected_results import Expected, check_expected_results
from maskrcnn_benchmark.evaluation.flickr import FlickrEvaluator
from maskrcnn_benchmark.evaluation.flickr_entities import subset_of_image
from maskrcnn_benchmark.evaluation.lvis import text_lines
from maskrcnn_benchmark.evaluation.phrase_recall import phrase_ground_truth
from maskrcnn_benchmark.evaluation.report import write_detection_report, write_phrase_report
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils.complete_files import atomic_path, write_complete
from maskrcnn_benchmark.utils.weight_files import write_pickled

Result = tuple[COCOResults, Any] | dict[str, Any]

GT_TYPES = ("separate", "merged")  # ANY-BOX and MERGED-BOX
ENTITIES_KEYS = ("original_img_id", "sentence_id")

logger = logging.getLogger(__name__)


def evaluate_predictions(
    dataset,
    store: PredictionStore,
    cfg,
    task: str,
    output_folder: str | None,
    dataset_name: str = "",
    expected_results: Sequence[Expected] = (),
    sigma_tolerance: float = 4,
    *,
    box_only: bool = False,
) -> Result:
    """The figures of what is in the store, over the items that it has; files are written to `output_folder`."""
    if box_only:
        found = dict(store)
        results, _ = evaluate(dataset, found, output_folder, True, ("bbox",), expected_results, sigma_tolerance)
        return results, list(found.values())
    report_title = (dataset_name or type(dataset).__name__) if cfg.TEST.REPORT else ""
    if task != "grounding" and not isinstance(dataset, LvisDetection):
        if output_folder:
            with atomic_path(Path(output_folder, "predictions.pth")) as part:
                write_pickled(_in_order(dataset, store), part)
        return evaluate(
            dataset,
            store,
            output_folder,
            expected_results=expected_results,
            expected_results_sigma_tol=sigma_tolerance,
            report_title=report_title,
        )
    if task == "grounding":
        figures = _evaluate_phrases(dataset, store, cfg, output_folder, dataset_name)
        if output_folder and report_title and store.indices():
            write_phrase_report(output_folder, report_title, dataset, store, figures)
    else:
        figures = _evaluate_lvis(dataset, store, cfg, output_folder, report_title)
    check_expected_results({"bbox": figures}, expected_results, sigma_tolerance)
    return figures


def _in_order(dataset, store: PredictionStore) -> list[BoxList]:
    """Detections by dataset index up to the last one; an item that was left out has no boxes."""
    found: list[BoxList] = []
    for index, boxes in store:
        found += [_no_boxes(dataset.get_img_info(left_out)) for left_out in range(len(found), index)]
        found.append(boxes)
    return found


def _no_boxes(record: Mapping[str, Any]) -> BoxList:
    boxes = BoxList(torch.zeros(0, 4), (record["width"], record["height"]), mode="xyxy")
    boxes.add_field("scores", torch.zeros(0))
    boxes.add_field("labels", torch.zeros(0, dtype=torch.int64))
    return boxes


def figures_of(result: Result | None) -> dict[str, float]:
    """Figures by name from what `inference` returns."""
    if result is None:
        return {}
    values = next(iter(result[0].results.values())) if isinstance(result, tuple) else result
    return {name: float(value) for name, value in values.items() if not hasattr(value, "__len__")}


def _evaluate_lvis(
    dataset: LvisDetection, store: PredictionStore, cfg, output_folder: str | None, report_title: str
) -> dict[str, float]:
    evaluator = LvisEvaluator(
        LVIS(dataset.lvis.dataset),
        is_fixed=not cfg.DATASETS.LVIS_USE_NORMAL_AP,
        only_seen=len(store) < len(dataset),
    )
    for index, detections in store:
        evaluator.update(dataset.ids[index], detections)
    figures = evaluator.summarize()
    logger.info("\n%s", "\n".join(text_lines(figures)))
    if output_folder:
        evaluator.write(output_folder, figures)
        if report_title:
            write_detection_report(output_folder, report_title, dataset, store, figures, evaluator)
    return figures


def _evaluate_phrases(
    dataset, store: PredictionStore, cfg, output_folder: str | None, dataset_name: str
) -> dict[str, float]:
    if isinstance(dataset, FlickrDataset):
        entities = _entities_folder(cfg)
        if entities is not None:
            return _evaluate_flickr(dataset, store, cfg, output_folder, entities, dataset_name)
        logger.warning(
            "Flickr30k Entities are not at %s (DATASETS.FLICKR_ENTITIES): recall is measured against the boxes of the "
            "annotation file, without types of phrases",
            cfg.DATASETS.FLICKR_ENTITIES,
        )
    recall = PhraseRecall(merge_boxes=cfg.DATASETS.FLICKR_GT_TYPE == "merged")
    for index, detections in store:
        record = dataset.get_img_info(index)
        ground_truth = phrase_ground_truth(record, dataset.coco.imgToAnns[record["id"]])
        recall.update(record["id"], _boxes_of_phrases(record, detections), ground_truth)
    figures = recall.summarize()
    for name, value in figures.items():
        logger.info("%s: %.4f", name, value)
    if output_folder:
        write_figures(output_folder, figures)
    return figures


def check_sentences(dataset: GroundingJson, cfg) -> None:
    """Looks for what the evaluation of phrases could only stumble over at its end.

    Raises: ValueError for an annotation that names no phrase, for a sentence of Flickr30k whose place in Flickr30k
        Entities is not told, and for an unknown protocol.
    """
    if cfg.DATASETS.FLICKR_GT_TYPE not in GT_TYPES:
        raise ValueError(f"DATASETS.FLICKR_GT_TYPE={cfg.DATASETS.FLICKR_GT_TYPE!r}: known are {', '.join(GT_TYPES)}")
    needed = ENTITIES_KEYS if isinstance(dataset, FlickrDataset) and _entities_folder(cfg) is not None else ()
    for index in range(len(dataset)):
        record = dataset.get_img_info(index)
        if missing := [key for key in needed if key not in record]:
            raise ValueError(
                f"image {record['id']!r} has no {missing[0]}, which recall on Flickr30k Entities needs "
                "(DATASETS.FLICKR_ENTITIES '' measures it against the boxes of the annotation file)"
            )
        for annotation in dataset.coco.imgToAnns[record["id"]]:
            if "tokens_positive" not in annotation:
                raise ValueError(
                    f"annotation {annotation['id']!r} of image {record['id']!r} has no tokens_positive, the characters "
                    "of the phrase that it shows"
                )


def _entities_folder(cfg) -> str | None:
    """The folder of Flickr30k Entities, None where it is not there."""
    try:
        return try_to_find(cfg.DATASETS.FLICKR_ENTITIES) or None
    except FileNotFoundError:
        return None


def _evaluate_flickr(
    dataset: FlickrDataset, store: PredictionStore, cfg, output_folder: str | None, entities: str, dataset_name: str
) -> dict[str, float]:
    image_id = dataset.get_img_info(0)["original_img_id"] if len(dataset) else None
    evaluator = FlickrEvaluator(
        entities,
        subset=subset_of_image(entities, image_id) or ("test" if "test" in dataset_name else "val"),
        merge_boxes=cfg.DATASETS.FLICKR_GT_TYPE == "merged",
        allow_missing=len(store) < len(dataset),
    )
    for index, detections in store:
        record = dataset.get_img_info(index)
        boxes = [found.tolist() for found in _boxes_of_phrases(record, detections)]
        names = {"image_id": record["original_img_id"], "sentence_id": record["sentence_id"]}
        evaluator.update([{**names, "boxes": boxes}])
    figures = evaluator.summarize() or {}
    if output_folder:
        evaluator.write(output_folder, figures)
        write_figures(output_folder, figures)
    return figures


def _boxes_of_phrases(record: Mapping[str, Any], detections: BoxList) -> list[Tensor]:
    """For every phrase its boxes in pixels of the picture, best first."""
    in_picture = detections.resize((record["width"], record["height"]))
    return boxes_by_label(in_picture, len(record["tokens_positive_eval"]))


def boxes_by_label(detections: BoxList, num_labels: int) -> list[Tensor]:
    """For each label 1, 2, ... its boxes (N, 4), the best score first."""
    order = detections.get_field("scores").argsort(descending=True, stable=True)
    boxes, labels = detections.bbox[order], detections.get_field("labels")[order]
    return [boxes[labels == label] for label in range(1, num_labels + 1)]


def write_figures(folder: str, figures: Mapping[str, float]) -> None:
    """Writes metrics.json."""
    path = Path(folder, "metrics.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_complete(path, json.dumps(dict(figures), indent=2) + "\n")
