"""Evaluation of a model on a test set."""

import contextlib
import logging
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from maskrcnn_benchmark.data.datasets.concat import CopiedDataset
from maskrcnn_benchmark.data.datasets.modulated import GroundingJson
from maskrcnn_benchmark.data.picture_files import picture_file
from maskrcnn_benchmark.data.samplers.evaluation import EvaluationBatches
from maskrcnn_benchmark.data.worker_errors import worker_errors_in_one_line
from maskrcnn_benchmark.engine.finders import (
    CaptionFinder,
    ClosedSetFinder,
    Finder,
    ForwardCaptionFinder,
    ForwardPromptFinder,
    Item,
    KnowledgeFinder,
    PromptFinder,
)
from maskrcnn_benchmark.engine.testing.dataset_figures import Result, evaluate_predictions, figures_of
from maskrcnn_benchmark.engine.testing.evaluation_description import describe_evaluation
from maskrcnn_benchmark.engine.testing.prediction_store import PredictionStore, open_store
from maskrcnn_benchmark.engine.testing.result_pictures import DEFAULT_THRESHOLD, save_pictures
from maskrcnn_benchmark.engine.tta import TestTimeAugmentation
from maskrcnn_benchmark.modeling.detector.generalized_vl_rcnn import GeneralizedVLRCNN
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.text.queries import (
    clean_name,
    create_positive_dict,
    create_queries_and_maps,
    create_queries_and_maps_from_dataset,
    prompts_from_dataset,
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

DETECTION, GROUNDING, CLOSED_SET = "detection", "grounding", ""
STORE = "predictions"  # folder of the detections, in that of the results

logger = logging.getLogger(__name__)


@torch.no_grad()
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
    *,
    resume: bool = False,
    replaces_other: bool = False,
    description: Mapping[str, Any] | None = None,
    save_vis: int = 0,
    has_fixed_weights: bool = False,
) -> Result | None:
    """Runs a model over a test set and computes its figures; the signature is the historical one.

    TEST.EVAL_TASK "detection" asks for the categories of the dataset and measures average precision; the result is
    (COCOResults, {"bbox": predictions}), or figures by name for data that are not evaluated as COCO's. "grounding" asks
    for the phrases of every caption and measures recall; the result is figures by name. "" asks a model without texts
    for its classes, and a GLIP for the categories. Processes other than the first return None.

    With `output_folder` figures and predictions are written there; what was found is kept on disk meanwhile, so that
    memory does not grow, and `resume` goes on with what an interrupted evaluation left in the folder.

    Args:
        box_only: measure the recall of boxes whatever their class; the result is (COCOResults, list of BoxLists).
        replaces_other: with `resume`, take the place of another evaluation in the folder instead of refusing.
        description: what the predictions depend on beside cfg and the data, such as the weights; asked of a folder to
            resume.
        save_vis: number of pictures to draw with what was found and what is there, in the folder vis.
        has_fixed_weights: the weights are those of the last call, so that a model in evaluation mode keeps what it
            prepared and recorded for a GPU.
    Raises: ValueError for another task or kind of evaluation, and when a picture of the set was not evaluated.
    """
    if tuple(iou_types) != ("bbox",) or visualizer is not None:
        raise ValueError(f"iou_types={tuple(iou_types)}, visualizer={visualizer}: only boxes are evaluated")
    model = unwrap_model(model)
    if model.training or not has_fixed_weights:
        model.eval()
    dataset = plain_dataset(data_loader)
    task = task_of(cfg, model)
    with _folder_for(output_folder) as folder:
        depends_on = describe_evaluation(cfg, dataset_name, dataset, description) if output_folder else {}
        store = open_store(folder, depends_on, resume, replaces_other=replaces_other)
        with contextlib.closing(store):
            find_predictions(model, data_loader, store, cfg, device, dataset_name, verbose=verbose)
            if not store.gather():
                return None
            _check_complete(data_loader, store, dataset_name)
            if save_vis and output_folder:
                save_pictures(dataset, store, Path(output_folder, "vis"), count=save_vis, threshold=DEFAULT_THRESHOLD)
            return evaluate_predictions(
                dataset,
                store,
                cfg,
                task,
                output_folder,
                dataset_name,
                expected_results,
                expected_results_sigma_tol,
                box_only=box_only,
            )


@torch.no_grad()
def find_predictions(
    model: nn.Module,
    data_loader,
    store: PredictionStore,
    cfg,
    device: torch.device | str,
    name: str,
    *,
    verbose: bool = True,
) -> None:
    """Puts what the model finds on this process's part of a test set into the store, beside what it has already.

    Raises: WorkerLost when the system ends a process of the loader.
    """
    dataset = plain_dataset(data_loader)
    find = make_finder(model, dataset, cfg, task_of(cfg, model))
    looker = TestTimeAugmentation.from_config(cfg, find, device) if cfg.TEST.USE_MULTISCALE else None
    batches = _remaining_batches(data_loader, store, cfg)
    with worker_errors_in_one_line():
        _predict(find, looker, dataset, batches, device, store, verbose, name).report()


def plain_dataset(data_loader) -> Any:
    """The dataset of a loader, without the copies of it."""
    dataset = data_loader.dataset
    return dataset.dataset if isinstance(dataset, CopiedDataset) else dataset


def measure_model(cfg, model: nn.Module, data_loaders: Sequence, device: torch.device | str) -> list[dict[str, float]]:
    """The figures of a model on each test set, the same on all processes; nothing is written.

    Args:
        cfg: as `inference` reads it.
        model: put into evaluation mode; a wrapper for several processes is taken off.
        data_loaders: what `make_data_loader(cfg, is_train=False)` makes, or some of them.
    Returns: for each loader figures by name, such as "AP" for detection and "Recall@1_all" for grounding.
    """
    return comm.broadcast_object(
        [
            figures_of(inference(model, data_loader, "val", device=device, cfg=cfg, verbose=False))
            for data_loader in data_loaders
        ]
    )


def task_of(cfg, model: nn.Module) -> str:
    """What a model is asked for: DETECTION, GROUNDING or CLOSED_SET. Raises: ValueError for another TEST.EVAL_TASK."""
    task = None if cfg is None else cfg.TEST.EVAL_TASK
    if task not in (DETECTION, GROUNDING, CLOSED_SET):
        raise ValueError(f"TEST.EVAL_TASK={task!r}: known are {DETECTION}, {GROUNDING}")
    if task == CLOSED_SET and isinstance(model, GeneralizedVLRCNN):
        logger.info("TEST.EVAL_TASK is empty: the categories of the data are asked for (%s)", DETECTION)
        return DETECTION
    return task


def make_finder(model: nn.Module, dataset, cfg, task: str) -> Finder:
    """How the model is asked about pictures of the dataset."""
    if task == CLOSED_SET:
        return ClosedSetFinder(model)
    if task == GROUNDING and getattr(model, "knowledge", None) is not None:
        raise ValueError("GLIPKNOW.PARALLEL_LANGUAGE_INPUT describes classes: set TEST.EVAL_TASK detection")
    if task == GROUNDING:
        return CaptionFinder(model) if isinstance(model, GeneralizedVLRCNN) else ForwardCaptionFinder(model)
    if not hasattr(dataset, "categories"):
        raise ValueError(f"a {type(dataset).__name__} has captions and no categories: set TEST.EVAL_TASK {GROUNDING}")
    if isinstance(model, GeneralizedVLRCNN) and model.knowledge is not None:
        per_text = cfg.TEST.CHUNKED_EVALUATION
        limit = cfg.MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN - 1
        return KnowledgeFinder(model, dataset.categories(), min(per_text, limit) if per_text > 0 else limit)
    prompts = prompts_from_dataset(dataset, cfg, getattr(model, "tokenizer", None))
    logger.info("%d prompts; the first: %s", len(prompts), prompts[0].caption)
    for prompt in prompts[1:]:
        logger.debug("Prompt: %s", prompt.caption)
    return PromptFinder(model, prompts) if isinstance(model, GeneralizedVLRCNN) else ForwardPromptFinder(model, prompts)


@dataclass
class Times:
    """Seconds of this process: waiting for data, the model with its transfers, writing; and pictures."""

    data: float = 0.0
    model: float = 0.0
    results: float = 0.0
    pictures: int = 0

    @contextlib.contextmanager
    def of_model(self) -> Iterator[None]:
        """Counts what is done meanwhile as the model's."""
        begin = time.perf_counter()
        yield
        self.model += time.perf_counter() - begin

    def report(self) -> None:
        """Logs the times; those of the other processes are taken to be alike."""
        devices = comm.get_world_size()
        total, count = self.data + self.model + self.results, max(self.pictures, 1)
        logger.info(
            "Total inference time: %.1f s (%.4f s / img per device, on %d devices)", total, total / count, devices
        )
        logger.info(
            "Per image: %.4f s waiting for data, %.4f s model, %.4f s keeping results; %.1f images/s",
            self.data / count,
            self.model / count,
            self.results / count,
            self.pictures * devices / max(total, 1e-9),
        )


def _predict(
    find: Finder,
    looker: TestTimeAugmentation | None,
    dataset,
    batches: tuple[Iterable, int | None],
    device: torch.device | str,
    store: PredictionStore,
    verbose: bool,
    name: str,
) -> Times:
    """Puts what is found on the batches into the store.

    The finder has the next batch before the results of one are taken, so that a GPU does not wait for that.
    """
    times = Times()
    iterator, total = iter(batches[0]), batches[1]
    is_shown = verbose and comm.is_main_process()
    started: tuple[Sequence, Callable[[], list[BoxList]]] | None = None
    with tqdm(total=total, desc=name, unit="img", disable=not is_shown, smoothing=0.1) as progress:
        while True:
            asked = time.perf_counter()
            batch = next(iterator, None)
            times.data += time.perf_counter() - asked
            before, started = started, None
            if batch is not None:
                with times.of_model():
                    images, targets, indices, *_ = batch
                    items = [_item(dataset, int(i), target) for i, target in zip(indices, targets, strict=True)]
                    started = indices, _start(find, looker, images, items, device)
            if before is not None:
                with times.of_model():
                    indices, collect = before
                    found = collect()
                done = time.perf_counter()
                for index, boxes in zip(indices, found, strict=True):
                    store.add(int(index), boxes)
                store.flush()
                progress.update(len(found))
                times.results += time.perf_counter() - done
                times.pictures += len(found)
            if started is None:
                return times


def _start(
    find: Finder, looker: TestTimeAugmentation | None, images: Any, items: Sequence[Item], device: torch.device | str
) -> Callable[[], list[BoxList]]:
    """Begins with a batch; the call of what is returned has the detections of every item."""
    if looker is None and isinstance(find, PromptFinder):
        return find.start(images.to(device), items)
    found = looker(images, items) if looker is not None else find(images.to(device), items)
    return lambda: found


def _item(dataset, index: int, target: Any) -> Item:
    picture = picture_file(dataset, index)
    spans = dataset.get_img_info(index).get("tokens_positive_eval", ()) if isinstance(dataset, GroundingJson) else ()
    return Item(target, index if picture is None else picture, spans)


def _remaining_batches(data_loader, store: PredictionStore, cfg) -> tuple[Iterable, int | None]:
    """The batches of this process that are still to be done, and their number of items, None if it is not known."""
    done = set().union(*comm.all_gather(set(store.indices())))
    sampler = getattr(data_loader, "batch_sampler", None)
    if not isinstance(sampler, EvaluationBatches):
        return (data_loader if cfg.TEST.SUBSET < 0 else islice(data_loader, cfg.TEST.SUBSET)), None
    sampler.skip(done)
    if done:
        logger.info("Going on: %d of %d items are done", len(done), len(sampler.items))
    return data_loader, len(sampler.own_items)


def _check_complete(data_loader, store: PredictionStore, name: str) -> None:
    """Raises RuntimeError unless every item was evaluated."""
    sampler = getattr(data_loader, "batch_sampler", None)
    if not isinstance(sampler, EvaluationBatches) or sampler.limit >= 0:
        return
    missing = [item for item in sampler.items if item not in store]
    if missing:
        raise RuntimeError(f"{name}: {len(missing)} of {len(sampler.items)} items were not evaluated: {missing[:5]}")


@contextlib.contextmanager
def _folder_for(output_folder: str | None) -> Iterator[Path]:
    """Where detections are kept: in the folder of the results, or for the time of the block in a temporary one."""
    if output_folder:
        yield Path(output_folder, STORE)
        return
    made = tempfile.mkdtemp(prefix="glip-") if comm.is_main_process() else ""
    folder, machine = comm.broadcast_object((made, socket.gethostname()))
    try:
        yield Path(folder, STORE)
    finally:
        if comm.is_main_process() or machine != socket.gethostname():
            shutil.rmtree(folder, ignore_errors=True)
