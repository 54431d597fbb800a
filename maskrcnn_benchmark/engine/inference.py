"""Evaluation of a model on a test set."""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from maskrcnn_benchmark.evaluation import CocoEvaluator, COCOResults, PhraseRecall
from maskrcnn_benchmark.evaluation.phrase_recall import phrase_ground_truth
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.boxlist_ops import cat_boxlist
from maskrcnn_benchmark.text.positive_map import label_to_tokens
from maskrcnn_benchmark.text.queries import (
    clean_name,
    create_positive_dict,
    create_queries_and_maps,
    create_queries_and_maps_from_dataset,
)
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.weight_conversion import unwrap_model

__all__ = [
    "clean_name",
    "create_positive_dict",
    "create_queries_and_maps",
    "create_queries_and_maps_from_dataset",
    "inference",
    "measure_model",
]

logger = logging.getLogger(__name__)

LabelToTokens = Mapping[int, Sequence[int]]
Queries = tuple[Sequence[str], Sequence[LabelToTokens]]  # for every image its caption and its map


def inference(
    model: nn.Module,
    data_loader,
    dataset_name: str,
    iou_types: Sequence[str] = ("bbox",),
    box_only: bool = False,
    device: torch.device | str = "cuda",
    expected_results: Sequence[tuple[str, str, tuple[float, float]]] = (),
    expected_results_sigma_tol: float = 4,
    output_folder: str | None = None,
    cfg=None,
    verbose: bool = True,
    visualizer: Any = None,
) -> tuple[COCOResults, dict[str, list]] | dict[str, float] | None:
    """Runs a model over a test set and computes its figures; the signature is the historical one.

    TEST.EVAL_TASK "detection" asks for the categories of the dataset and measures COCO's average precision; the result
    is (COCOResults, {"bbox": predictions}). "grounding" asks for the phrases of every caption and measures recall; the
    result is a dict of figures. Processes other than the first return None. With `output_folder` the figures, and for
    detection the predictions, are written there.

    Raises: ValueError for another task or kind of evaluation.
    """
    if tuple(iou_types) != ("bbox",) or box_only or visualizer is not None:
        raise ValueError(
            f"iou_types={tuple(iou_types)}, box_only={box_only}, visualizer={visualizer}: only boxes are evaluated"
        )
    if cfg is None or cfg.TEST.EVAL_TASK not in TASKS:
        task = None if cfg is None else cfg.TEST.EVAL_TASK
        raise ValueError(f"TEST.EVAL_TASK={task!r}: known are {', '.join(TASKS)}")
    if cfg.TEST.USE_MULTISCALE:
        raise ValueError("TEST.USE_MULTISCALE is not supported by this evaluation")
    started = time.monotonic()
    batches = _first(data_loader, cfg.TEST.SUBSET)
    if verbose and comm.is_main_process():
        batches = tqdm(batches, total=len(data_loader), desc=dataset_name)
    result = TASKS[cfg.TEST.EVAL_TASK](unwrap_model(model), data_loader.dataset, batches, device, output_folder, cfg)
    seconds = time.monotonic() - started
    logger.info(
        "Total inference time: %.1f s (%.4f s / img per device, on %d devices)",
        seconds,
        seconds * comm.get_world_size() / len(data_loader.dataset),
        comm.get_world_size(),
    )
    if isinstance(result, tuple):
        check_expected_results(result[0], expected_results, expected_results_sigma_tol)
    return result


def measure_model(cfg, model: nn.Module, data_loaders: Sequence, device: torch.device | str) -> list[dict[str, float]]:
    """The figures of a model on each test set, the same on all processes; nothing is written.

    Args:
        cfg: as `inference` reads it.
        model: put into evaluation mode; a wrapper for several processes is taken off.
        data_loaders: what `make_data_loader(cfg, is_train=False)` makes, or some of them.
    Returns: for each loader figures by name, such as "AP" for detection and "Recall@1_all" for grounding.
    """
    results = []
    for data_loader in data_loaders:
        result = inference(model, data_loader, "val", device=device, cfg=cfg, verbose=False)
        figures = result[0].results["bbox"] if isinstance(result, tuple) else result
        results.append({} if figures is None else dict(figures))
    return comm.broadcast_object(results)


def _first(batches: Iterable, count: int) -> Iterator:
    """The first `count` batches, or all of them if it is -1."""
    for number, batch in enumerate(batches):
        if number == count:
            return
        yield batch


@torch.no_grad()
def predict_batches(
    model: nn.Module,
    batches: Iterable[Sequence[Any]],
    queries: Callable[[Sequence[BoxList]], Iterable[Queries]],
    device: torch.device | str,
) -> Iterator[tuple[int, BoxList, BoxList]]:
    """(dataset index, target, detections on the CPU) for every image.

    `queries` gives for the targets of a batch one or several rounds of captions; what they find is joined.
    """
    model.eval()
    for images, targets, indices, *_ in batches:
        images = images.to(device)
        rounds = [
            model(images, captions=list(captions), positive_map=list(maps)) for captions, maps in queries(targets)
        ]
        for index, target, *found in zip(indices, targets, *rounds, strict=True):
            yield index, target, cat_boxlist([detections.to("cpu") for detections in found])


def _evaluate_detection(model: nn.Module, dataset, batches: Iterable, device, output_folder: str | None, cfg):
    captions, maps = create_queries_and_maps_from_dataset(dataset, cfg, tokenizer=model.tokenizer)
    for caption in captions:
        logger.info("Prompt: %s", caption)

    def queries(targets: Sequence[BoxList]) -> Iterator[Queries]:
        for caption, positive_map in zip(captions, maps, strict=True):
            yield [caption] * len(targets), [positive_map] * len(targets)

    evaluator = CocoEvaluator(dataset.coco, dataset.contiguous_category_id_to_json_id)
    for index, _, detections in predict_batches(model, batches, queries, device):
        evaluator.update(dataset.id_to_img_map[index], detections)
    if not evaluator.gather():
        return None
    results = COCOResults("bbox")
    results.results["bbox"].update(evaluator.summarize())
    logger.info("%s", results)
    if output_folder:
        evaluator.write(output_folder, results.results["bbox"])
    return results, {"bbox": evaluator.results()}


def _evaluate_grounding(model: nn.Module, dataset, batches: Iterable, device, output_folder: str | None, cfg):
    recall = PhraseRecall(merge_boxes=cfg.DATASETS.FLICKR_GT_TYPE == "merged")

    def queries(targets: Sequence[BoxList]) -> Iterator[Queries]:
        captions = [target.get_field("caption") for target in targets]
        yield captions, [label_to_tokens(target.get_field("positive_map_eval")) for target in targets]

    for index, target, detections in predict_batches(model, batches, queries, device):
        record = dataset.get_img_info(index)
        ground_truth = phrase_ground_truth(record, dataset.coco.imgToAnns[record["id"]])
        height, width = target.get_field("orig_size").tolist()
        boxes = boxes_by_label(detections.resize((width, height)), len(ground_truth))
        recall.update(record["id"], boxes, ground_truth)
    if not recall.gather():
        return None
    figures = recall.summarize()
    for name, value in figures.items():
        logger.info("%s: %.4f", name, value)
    if output_folder:
        _write_figures(output_folder, figures)
    return figures


TASKS: dict[str, Callable] = {"detection": _evaluate_detection, "grounding": _evaluate_grounding}


def boxes_by_label(detections: BoxList, num_labels: int) -> list[Tensor]:
    """For each label 1, 2, ... its boxes (N, 4), the best score first."""
    order = detections.get_field("scores").argsort(descending=True, stable=True)
    boxes, labels = detections.bbox[order], detections.get_field("labels")[order]
    return [boxes[labels == label] for label in range(1, num_labels + 1)]


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
