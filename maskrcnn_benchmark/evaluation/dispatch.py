"""Which evaluator serves which dataset, for the boxes found in it."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools.coco import COCO
from torch.utils.data import Dataset

from maskrcnn_benchmark.data.datasets.coco import boxlist_of_annotations
from maskrcnn_benchmark.data.datasets.coco_json import is_crowd
from maskrcnn_benchmark.data.datasets.lvis import LvisDetection
from maskrcnn_benchmark.data.datasets.od_tsv import ODTSVDataset, VGDetectionTSV
from maskrcnn_benchmark.data.datasets.voc import PascalVOCDataset
from maskrcnn_benchmark.evaluation.coco import CocoEvaluator, COCOResults
from maskrcnn_benchmark.evaluation.expected_results import Expected, check_expected_results
from maskrcnn_benchmark.evaluation.lvis import LvisEvaluator
from maskrcnn_benchmark.evaluation.lvis_annotations import LVIS
from maskrcnn_benchmark.evaluation.proposals import ProposalRecall
from maskrcnn_benchmark.evaluation.report import write_detection_report, write_voc_report
from maskrcnn_benchmark.evaluation.voc import VocEvaluator
from maskrcnn_benchmark.structures.bounding_box import BoxList

logger = logging.getLogger(__name__)

Predictions = Sequence[BoxList] | Mapping[int, BoxList] | Iterable[tuple[int, BoxList]]


class ByIndex:
    """Predictions as pairs of dataset index and boxes, as often as the predictions can be looked through.

    Raises: ValueError, while looking through, for an index that the dataset does not have.
    """

    def __init__(self, predictions: Predictions, num_items: int):
        self.predictions = predictions
        self.num_items = num_items

    def __iter__(self) -> Iterator[tuple[int, BoxList]]:
        pairs: Iterable[tuple[int, BoxList]]
        if isinstance(self.predictions, Sequence):
            pairs = enumerate(self.predictions)
        else:
            pairs = self.predictions.items() if isinstance(self.predictions, Mapping) else self.predictions
        for index, boxes in pairs:
            if not 0 <= index < self.num_items:
                raise ValueError(f"predictions for item {index} of a dataset with {self.num_items} items")
            yield index, boxes


class DetectionTruth(NamedTuple):
    """A dataset as COCO's evaluation sees it.

    Attributes:
        coco: annotations. category_of_label: label -> category id. image_ids: dataset index -> image id.
    """

    coco: COCO
    category_of_label: Mapping[int, Any]
    image_ids: Mapping[int, Any]


def detection_truth(dataset: Any) -> DetectionTruth | None:
    """The truth of a dataset in COCO format or of a TSV file with boxes; None for others."""
    if hasattr(dataset, "coco") and hasattr(dataset, "contiguous_category_id_to_json_id"):
        return DetectionTruth(dataset.coco, dataset.contiguous_category_id_to_json_id, dataset.id_to_img_map)
    if isinstance(dataset, ODTSVDataset):
        return _truth_of_tsv(dataset)
    return None


def _truth_of_tsv(dataset: ODTSVDataset) -> DetectionTruth:
    names = dataset.categories()
    coco = COCO()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(len(dataset)):
        record = dataset.get_img_info(index)
        images.append({"id": index, "width": record["width"], "height": record["height"]})
        target = dataset.read_target(index, (record["width"], record["height"]))
        for box, label in zip(target.convert("xywh").bbox.tolist(), target.get_field("labels").tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": label,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": label, "name": name} for label, name in names.items()]
    coco.dataset = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    coco.imgs = {record["id"]: record for record in images}
    coco.cats = {record["id"]: record for record in categories}
    coco.anns = {record["id"]: record for record in annotations}
    for record in annotations:
        coco.imgToAnns[record["image_id"]].append(record)
        coco.catToImgs[record["category_id"]].append(record["image_id"])
    return DetectionTruth(coco, {label: label for label in names}, {index: index for index in range(len(dataset))})


def evaluate(
    dataset: Dataset,
    predictions: Predictions,
    output_folder: str | None = None,
    box_only: bool = False,
    iou_types: Sequence[str] = ("bbox",),
    expected_results: Sequence[Expected] = (),
    expected_results_sigma_tol: float = 4,
    *,
    report_title: str = "",
) -> tuple[COCOResults, Any] | dict[str, Any]:
    """Computes the figures of boxes found in a dataset; the interface is the historical one.

    Args:
        dataset: in COCO format (COCODataset, CocoGrounding and others), of a TSV file, PascalVOCDataset, or
            LvisDetection, whose labels are the category ids of the file.
        predictions: BoxLists with `scores` and `labels`, of the dataset's items in order, or by index.
        output_folder: where files are written; None for none.
        box_only: measure the recall of boxes whatever their class, for data in COCO format.
        expected_results, expected_results_sigma_tol: see `check_expected_results`.
        report_title: of a page on the results in the folder, for data in the format of COCO or VOC; "" for no page. It
            looks through the predictions again, so that an iterator will not do.
    Returns:
        COCO: (COCOResults, {"bbox": list of results}), with `box_only` (COCOResults, predictions). VOC: {"ap": array
        per label from 0, "map": mean}. LVIS: figures by name. Visual Genome: as COCO; result_obj.txt in the folder has
        its own figures.
    Raises:
        NotImplementedError: for other datasets.
        ValueError: for other kinds of results than boxes.
    """
    if tuple(iou_types) != ("bbox",):
        raise ValueError(f"iou_types={tuple(iou_types)}: only boxes are evaluated")
    pairs = ByIndex(predictions, len(dataset))  # type: ignore[arg-type]
    if isinstance(dataset, PascalVOCDataset):
        result = _evaluate_voc(dataset, pairs, output_folder, report_title)
        check_expected_results({"bbox": {"mAP": result["map"]}}, expected_results, expected_results_sigma_tol)
        return result
    if isinstance(dataset, LvisDetection):
        figures = _evaluate_lvis(dataset, pairs, output_folder)
        check_expected_results({"bbox": figures}, expected_results, expected_results_sigma_tol)
        return figures
    truth = detection_truth(dataset)
    if truth is None:
        raise NotImplementedError(
            f"boxes in a {type(dataset).__name__} cannot be evaluated; known are datasets in COCO format, TSV files "
            "with boxes, PascalVOCDataset and LvisDetection"
        )
    if box_only:
        proposals = _evaluate_proposals(truth, pairs, output_folder)
        check_expected_results(proposals.results, expected_results, expected_results_sigma_tol)
        return proposals, predictions
    if isinstance(dataset, VGDetectionTSV) and output_folder:
        _evaluate_visual_genome(dataset, pairs, output_folder)
    evaluator = CocoEvaluator(truth.coco, truth.category_of_label)
    for index, boxes in pairs:
        evaluator.update(truth.image_ids[index], boxes)
    results = COCOResults("bbox")
    results.results["bbox"].update(evaluator.summarize())
    logger.info("%s", results)
    if output_folder:
        evaluator.write(output_folder, results.results["bbox"])
        if report_title:
            figures = {**results.results["bbox"], **evaluator.recalls}
            write_detection_report(output_folder, report_title, dataset, pairs, figures, evaluator)
    check_expected_results(results.results, expected_results, expected_results_sigma_tol)
    return results, {"bbox": evaluator.results()}


def _evaluate_proposals(
    truth: DetectionTruth, pairs: Iterable[tuple[int, BoxList]], output_folder: str | None
) -> COCOResults:
    evaluator = ProposalRecall()
    for index, boxes in pairs:
        record = truth.coco.imgs[truth.image_ids[index]]
        shown = [annotation for annotation in truth.coco.imgToAnns[record["id"]] if not is_crowd(annotation)]
        things = boxlist_of_annotations(shown, (record["width"], record["height"]))
        areas = [annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3]) for annotation in shown]
        evaluator.update(record["id"], boxes, things, torch.tensor(areas, dtype=torch.float64))
    results = evaluator.results()
    logger.info("%s", results)
    if output_folder:
        evaluator.write(output_folder, results)
    return results


def _evaluate_visual_genome(dataset: VGDetectionTSV, pairs: Iterable[tuple[int, BoxList]], output_folder: str) -> None:
    """Mean AP at overlap 0.5, plain and weighted by the number of things, and mean recall."""
    evaluator = VocEvaluator(dataset.categories(), use_07_metric=False)
    for index, boxes in pairs:
        record = dataset.get_img_info(index)
        evaluator.update(index, boxes, dataset.read_target(index, (record["width"], record["height"])))
    metrics = evaluator.summarize()
    logger.info("Visual Genome: %s", metrics)
    evaluator.write(output_folder, metrics, "result_obj.txt")


def _evaluate_voc(
    dataset: PascalVOCDataset, pairs: Iterable[tuple[int, BoxList]], output_folder: str | None, report_title: str
) -> dict[str, Any]:
    names = dict(enumerate(dataset.CLASSES))
    evaluator = VocEvaluator(names)
    for index, boxes in pairs:
        evaluator.update(index, boxes, dataset.get_groundtruth(index))
    metrics = evaluator.summarize()
    for row in evaluator.table.values():
        del row[names[0]]  # the background
    logger.info("mAP: %.4f", metrics["mAP"])
    if output_folder:
        evaluator.write(output_folder, metrics)
        evaluator.write_json(output_folder, metrics)
        if report_title:
            write_voc_report(output_folder, report_title, dataset, pairs, metrics, evaluator)
    return {"ap": np.array([np.nan, *evaluator.table["AP"].values()]), "map": metrics["mAP"]}


def _evaluate_lvis(
    dataset: LvisDetection, pairs: Iterable[tuple[int, BoxList]], output_folder: str | None
) -> dict[str, float]:
    evaluator = LvisEvaluator(LVIS(dataset.lvis.dataset), only_seen=True)
    for index, boxes in pairs:
        evaluator.update(dataset.ids[index], boxes)
    figures = evaluator.summarize()
    if output_folder:
        evaluator.write(output_folder, figures)
    return figures
