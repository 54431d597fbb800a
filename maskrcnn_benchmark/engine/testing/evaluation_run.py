"""A whole evaluation: from a configuration file and weights to figures and files, for one task or several."""

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from maskrcnn_benchmark.config import CfgNode, default_config
from maskrcnn_benchmark.data.build import dataset_names, find_datasets, make_data_loader
from maskrcnn_benchmark.data.datasets.coco_json import check_records
from maskrcnn_benchmark.data.datasets.lvis import LvisDetection
from maskrcnn_benchmark.data.datasets.modulated import GroundingJson
from maskrcnn_benchmark.data.picture_files import describe_missing, missing_pictures
from maskrcnn_benchmark.data.samplers.evaluation import EvaluationBatches
from maskrcnn_benchmark.engine.inference import GROUNDING, inference, plain_dataset
from maskrcnn_benchmark.engine.launch import process_group
from maskrcnn_benchmark.engine.model_files import find_model
from maskrcnn_benchmark.engine.testing.dataset_figures import check_sentences, figures_of
from maskrcnn_benchmark.engine.testing.task_model import TaskModel, find_weight, last_checkpoint, weight_name
from maskrcnn_benchmark.engine.text_files import use_local_text_files
from maskrcnn_benchmark.evaluation.average_precision import mean_of_valid
from maskrcnn_benchmark.evaluation.expected_results import read_expected_results
from maskrcnn_benchmark.evaluation.lvis_annotations import LVIS
from maskrcnn_benchmark.evaluation.odinw import (
    COLLECTIONS,
    summarize_tasks,
    summary_table,
    task_files,
    write_summary,
)
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.download import sha256_of
from maskrcnn_benchmark.utils.file_names import distinct_names
from maskrcnn_benchmark.utils.logger import setup_logger
from maskrcnn_benchmark.utils.precision_names import DEFAULT_PRECISION

Figures = dict[str, dict[str, float]]
"""By test set and name."""

logger = logging.getLogger("maskrcnn_benchmark.inference")


@dataclass(frozen=True)
class EvaluationOptions:
    """What the command line says beside the configuration.

    Attributes:
        resume: go on where an interrupted evaluation stopped; replaces_other: where it was another one, start afresh.
        skip_missing: leave out pictures whose files are not there.
        precision: of the numbers on a GPU.
        weight: what the predictions were made with, for `resume`.
        save_vis: number of pictures of every set to draw.
        has_fixed_weights: the weights stay as they are between evaluations, see `inference`.
    """

    resume: bool = False
    replaces_other: bool = False
    skip_missing: bool = False
    precision: str | None = DEFAULT_PRECISION
    weight: str = ""
    save_vis: int = 0
    has_fixed_weights: bool = False


@dataclass(frozen=True)
class Task:
    """Test sets of a command: their name and the configuration of data, evaluation and model."""

    name: str
    cfg: CfgNode


def run(args: argparse.Namespace, opts: Sequence[str]) -> int:
    """Evaluates as the arguments say (see `evaluation_arguments`); returns the exit code."""
    cfg, weight, name = model_configuration(args, opts)
    tasks = task_configurations(cfg, args.task_config, opts)
    log_dir = Path(cfg.OUTPUT_DIR, "eval", name) if name else Path(cfg.OUTPUT_DIR)
    with process_group(cfg.MODEL.DEVICE, args.local_rank) as device:
        setup_logger("maskrcnn_benchmark", str(log_dir) if cfg.OUTPUT_DIR else "", comm.get_rank())
        logger.info("Command: %s", " ".join(sys.argv))
        logger.info("Processes: %d; PyTorch %s; device %s", comm.get_world_size(), torch.__version__, device)
        options = EvaluationOptions(
            resume=args.resume,
            skip_missing=args.skip_missing,
            precision=args.precision,
            weight=weight or last_checkpoint(cfg) or cfg.MODEL.WEIGHT,
            save_vis=args.save_vis,
            has_fixed_weights=True,
        )
        evaluate_tasks(
            tasks, TaskModel(cfg, weight, device, args.precision), log_dir if cfg.OUTPUT_DIR else None, options
        )
    return 0


def model_configuration(args: argparse.Namespace, opts: Sequence[str]) -> tuple[CfgNode, str | None, str]:
    """The model's configuration, its checkpoint, and the name of the folder of its results ("" for OUTPUT_DIR itself).

    Raises: ValueError unless a configuration, which may have weights, or a model, which has its own, is named.
    """
    if bool(args.config_file) == bool(args.model) or (args.model and args.weight):
        raise ValueError("name either a configuration (--config-file FILE --weight FILE) or a model (--model NAME)")
    cfg = default_config()
    if args.model:
        files = find_model(args.model)
        config_file, weight, name = files.config, str(files.weights()), Path(files.name).name
    else:
        config_file, weight = Path(args.config_file), args.weight
        name = weight_name(weight) if weight else ""
    cfg.merge_from_file(config_file)
    cfg.merge_from_list(list(opts))
    use_local_text_files(cfg, config_file.parent)
    cfg.freeze()
    return cfg, weight, name


def task_configurations(cfg: CfgNode, task_config: str | None, opts: Sequence[str]) -> list[Task]:
    """The tasks: the model's own test sets, or one for each file of `task_config`, to which `opts` apply again.

    `task_config` names files, or collections of them, such as odinw_13, separated by commas. A task has the name of its
    file, with that of its folder before it where files in several folders are called the same.

    Raises: ValueError for a `task_config` of blanks and commas alone; FileNotFoundError.
    """
    if not task_config:
        return [Task("", cfg)]
    language = cfg.MODEL.LANGUAGE_BACKBONE
    tasks = []
    for name, path in named_files(_task_paths(task_config)).items():
        merged = cfg.clone()
        merged.defrost()
        merged.merge_from_file(path)
        merged.merge_from_list(list(opts))
        merged.MODEL.LANGUAGE_BACKBONE.MODEL_TYPE = language.MODEL_TYPE  # the folders found for the model
        merged.MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE = language.TOKENIZER_TYPE
        merged.freeze()
        tasks.append(Task(name, merged))
    if not tasks:
        raise ValueError(f"--task_config {task_config!r} names no file")
    return tasks


def named_files(paths: Iterable[Path]) -> dict[str, Path]:
    """Files by stem, or by as many folders before it as it takes to tell them apart; a repeated file comes once."""
    files = {path.resolve(): path for path in paths}
    return dict(zip(distinct_names(list(files), "-"), files.values(), strict=True))


def _task_paths(task_config: str) -> Iterator[Path]:
    for part in filter(None, (part.strip() for part in task_config.split(","))):
        yield from task_files(part) if part in COLLECTIONS else [Path(part)]


def evaluate_tasks(
    tasks: Sequence[Task], model: TaskModel, log_dir: Path | None, options: EvaluationOptions
) -> dict[str, Figures]:
    """Evaluates tasks one after the other; returns figures by task, test set and name, on all processes.

    Results go to log_dir/inference/TEST SET; where tasks have test sets of one name, or mean different data by it, all
    go to log_dir/inference/TASK/TEST SET. Several tasks are summed up in log_dir/inference/tasks.json and tasks.csv.
    """
    _check_data(tasks)
    shared = _share_names(tasks)
    figures: dict[str, Figures] = {}
    for task in tasks:
        if task.name:
            logger.info("Task %s", task.name)
        folder = None if log_dir is None else log_dir / "inference" / (task.name if shared else "")
        figures[task.name] = evaluate_task(task.cfg, model.for_task(task.cfg), model.device, folder, options)
    for task_name, results in figures.items():
        for dataset, values in results.items():
            text = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
            logger.info("Result of %s: %s", f"{task_name}/{dataset}".strip("/"), text)
    if len(tasks) > 1 and comm.is_main_process():
        _sum_up(figures, log_dir)
    return figures


def _check_data(tasks: Sequence[Task]) -> None:
    """Raises FileNotFoundError where files of some of several tasks are missing, before the first is evaluated."""
    missing: dict[str, FileNotFoundError] = {}
    for task in tasks if len(tasks) > 1 else ():
        try:
            find_datasets(task.cfg, is_train=False)
        except FileNotFoundError as error:
            missing[task.name] = error
    if missing:
        names = f"{', '.join(list(missing)[:5])}{', ...' if len(missing) > 5 else ''}"
        first = next(iter(missing.values()))
        raise FileNotFoundError(f"data of {len(missing)} of {len(tasks)} tasks are missing ({names}). {first}")


def _share_names(tasks: Sequence[Task]) -> bool:
    """Whether a test set of a task has the name of another one, or of other data that another task registers.

    The tasks of ODinW all register train, val and test, though each of them is evaluated on one of these.
    """
    names = [set(dataset_names(task.cfg, is_train=False)) for task in tasks]
    registers = [task.cfg.DATASETS.REGISTER for task in tasks]
    for name, count in Counter(name for of_task in names for name in of_task).items():
        meanings = {str(register[name]) for register in registers if name in register}
        if count > 1 or len(meanings) > 1:
            return True
    return False


def _sum_up(figures: Mapping[str, Figures], log_dir: Path | None) -> None:
    """Mean and median of AP over the tasks, each of them the mean over its test sets; nothing where none has an AP."""
    precisions = {
        task: [mean_of_valid(np.array([values["AP"] for values in results.values()]))]
        for task, results in figures.items()
        if results and all("AP" in values for values in results.values())
    }
    if not precisions:
        return
    summary = summarize_tasks(precisions)
    logger.info("%d tasks with AP:\n%s", len(precisions), summary_table(summary))
    if log_dir is not None:
        write_summary(log_dir / "inference", "tasks", summary)


def run_test(cfg: CfgNode, model: nn.Module, distributed: bool, log_dir: str | Path | None = None) -> Figures:
    """Evaluates a model on the test sets of a configuration, as other tools know it; see `evaluate_task`.

    distributed: whether there are several processes, which is known without it.
    """
    folder = Path(log_dir or cfg.OUTPUT_DIR, "inference") if log_dir or cfg.OUTPUT_DIR else None
    return evaluate_task(cfg, model, next(model.parameters()).device, folder)


def evaluate_task(
    cfg: CfgNode,
    model: nn.Module,
    device: torch.device,
    folder: Path | None,
    options: EvaluationOptions = EvaluationOptions(),  # noqa: B008  a frozen dataclass
) -> Figures:
    """Evaluates a model on the test sets of a configuration; returns figures by set and name, on all processes.

    Args:
        folder: each set has a folder of its name in it; None writes nothing.
    Raises: FileNotFoundError for pictures that are not there, unless they are to be skipped; ValueError for annotations
        that cannot be evaluated.
    """
    figures: Figures = {}
    read_expected_results(cfg.TEST.EXPECTED_RESULTS)  # a mistake there is told before any time goes into it
    names = dataset_names(cfg, is_train=False)
    loaders = make_data_loader(cfg, is_train=False, is_distributed=comm.get_world_size() > 1, for_evaluation=True)
    for name, loader in zip(names, loaders, strict=True):
        _check_annotations(name, loader, cfg)
        _check_pictures(name, loader, options.skip_missing)
        target = None if folder is None else folder / name
        if target is not None:
            target.mkdir(parents=True, exist_ok=True)
        result = inference(
            model,
            loader,
            name,
            box_only=cfg.MODEL.RPN_ONLY and (cfg.MODEL.RPN_ARCHITECTURE == "RPN" or cfg.DATASETS.CLASS_AGNOSTIC),
            device=device,
            expected_results=cfg.TEST.EXPECTED_RESULTS,
            expected_results_sigma_tol=cfg.TEST.EXPECTED_RESULTS_SIGMA_TOL,
            output_folder=None if target is None else str(target),
            cfg=cfg,
            resume=options.resume,
            replaces_other=options.replaces_other,
            description={"weight": weight_state(options.weight), "precision": options.precision},
            save_vis=options.save_vis,
            has_fixed_weights=options.has_fixed_weights,
        )
        figures[name] = comm.broadcast_object(figures_of(result))
    return figures


def weight_state(weight: str) -> list[Any]:
    """What identifies a checkpoint: its name, and the SHA-256 of a file."""
    path = Path(find_weight(weight)) if weight else Path()
    if not path.is_file():
        return [weight]
    state = path.stat()
    return [weight, _sha256(path, state.st_size, state.st_mtime_ns)]


@lru_cache(maxsize=8)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Of the content of a file; read again only where its size (bytes) or time of change (ns) is another one."""
    return sha256_of(path)


def _check_annotations(name: str, loader, cfg: CfgNode) -> None:
    """Looks at the annotations of a test set before any time goes into it."""
    dataset = plain_dataset(loader)
    try:
        if isinstance(dataset, LvisDetection):
            LVIS(dataset.lvis.dataset)
            check_records(dataset.lvis)
        elif hasattr(dataset, "coco"):
            is_labelled = not getattr(dataset, "class_agnostic", False)
            check_records(dataset.coco, getattr(dataset, "numbering", None) if is_labelled else None)
        if isinstance(dataset, GroundingJson) and cfg.TEST.EVAL_TASK == GROUNDING:
            check_sentences(dataset, cfg)
    except ValueError as error:
        raise ValueError(f"test set {name}: {error}") from error


def _check_pictures(name: str, loader, skip_missing: bool) -> None:
    """Looks for the files of a test set before any time goes into it; the first process looks."""
    sampler: EvaluationBatches = loader.batch_sampler
    missing: Mapping[int, str] = {}
    if comm.is_main_process():
        missing = missing_pictures(loader.dataset, sampler.items)
    missing = comm.broadcast_object(missing)
    if not missing:
        return
    text = f"test set {name}: {describe_missing(dict(missing), len(sampler.items))}"
    if not skip_missing or len(missing) == len(sampler.items):
        raise FileNotFoundError(f"{text} (--skip-missing goes on without them)")
    logger.warning("%s; going on without them", text)
    sampler.leave_out(missing)
