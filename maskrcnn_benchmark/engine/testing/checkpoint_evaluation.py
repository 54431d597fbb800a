"""Evaluation of every checkpoint of a training run."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.engine.common_arguments import add_local_rank
from maskrcnn_benchmark.engine.launch import process_group
from maskrcnn_benchmark.engine.testing.evaluation_run import (
    EvaluationOptions,
    Figures,
    Task,
    evaluate_tasks,
    model_configuration,
)
from maskrcnn_benchmark.engine.testing.task_model import TaskModel, weight_name
from maskrcnn_benchmark.engine.training.loss_guard import BAD_BATCH
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.collect_env import collect_env_info
from maskrcnn_benchmark.utils.complete_files import write_complete
from maskrcnn_benchmark.utils.logger import setup_logger
from maskrcnn_benchmark.utils.precision_names import DEFAULT_PRECISION

BEST = "model_best.pth"
SUMMARY = "summary.json"
BEST_TEST_SETS = ("val", "test")

logger = logging.getLogger("maskrcnn_benchmark.eval_all")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of tools/eval_all.py; the configuration entries KEY VALUE ... are not among them."""
    parser.add_argument("--config-file", required=True, metavar="FILE", help="configuration of the run: its config.yml")
    add_local_rank(parser)
    parser.add_argument("--skip_eval", action="store_true", help="evaluate nothing, print the summary that is there")
    parser.add_argument(
        "--evaluate_only_best_on_test", action="store_true",
        help=f"evaluate {BEST} alone, on the test sets {' and '.join(BEST_TEST_SETS)}",
    )  # fmt: skip
    parser.add_argument("--eval_freq", type=int, default=1, metavar="N", help="evaluate every N-th checkpoint")
    parser.add_argument("--collection", default="grounding", help="accepted")
    for flag in ("--overwrite_azure_logs", "--push_both_val_and_test"):
        parser.add_argument(flag, action="store_true", help="accepted")


def run(args: argparse.Namespace, opts: Sequence[str]) -> int:
    """Evaluates as the arguments say; returns the exit code.

    Results go to OUTPUT_DIR/eval/CHECKPOINT/inference/TEST SET, all figures together, with those of earlier commands,
    to OUTPUT_DIR/eval/summary.json.
    """
    args.model, args.weight = "", None
    cfg, _, _ = model_configuration(args, opts)
    if not cfg.OUTPUT_DIR:
        raise ValueError("OUTPUT_DIR is empty; give the folder of the checkpoints, OUTPUT_DIR DIR")
    folder = Path(cfg.OUTPUT_DIR, "eval")
    with process_group(cfg.MODEL.DEVICE, args.local_rank) as device:
        setup_logger("maskrcnn_benchmark", cfg.OUTPUT_DIR, comm.get_rank())
        logger.info("Command: %s\n%s", " ".join(sys.argv), collect_env_info())
        figures: dict[str, Figures] = {}
        if (folder / SUMMARY).is_file():
            figures = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        elif args.skip_eval:
            raise FileNotFoundError(f"{folder / SUMMARY} does not exist: evaluate first, without --skip_eval")
        if not args.skip_eval:
            for path in find_checkpoints(cfg.OUTPUT_DIR, args.evaluate_only_best_on_test, args.eval_freq):
                logger.info("Checkpoint %s", path)
                task = Task("", _with_test_sets(cfg, BEST_TEST_SETS) if args.evaluate_only_best_on_test else cfg)
                model = TaskModel(task.cfg, str(path), device, DEFAULT_PRECISION)
                name = weight_name(str(path))
                found = evaluate_tasks([task], model, folder / name, EvaluationOptions(weight=str(path)))[""]
                figures[name] = figures.get(name, {}) | found
                if comm.is_main_process():
                    write_complete(folder / SUMMARY, json.dumps(figures, indent=1) + "\n")
        for name, results in figures.items():
            for test_set, values in results.items():
                text = ", ".join(f"{figure} {value:.4f}" for figure, value in values.items())
                logger.info("%s, %s: %s", name, test_set, text)
    return 0


def find_checkpoints(folder: str | Path, only_best: bool = False, step: int = 1) -> list[Path]:
    """The checkpoints of a run by name: every `step`-th, or the best alone.

    Raises: FileNotFoundError if there is none, ValueError for a step below 1.
    """
    if step < 1:
        raise ValueError(f"--eval_freq {step}: give a positive number")
    pattern = f"*{BEST}" if only_best else "*.pth"
    paths = sorted(path for path in Path(folder).glob(pattern) if not path.name.startswith(BAD_BATCH))
    if not paths:
        raise FileNotFoundError(f"no checkpoints found: {folder} has no {pattern}")
    return paths[::step]


def _with_test_sets(cfg: CfgNode, names: Sequence[str]) -> CfgNode:
    changed = cfg.clone()
    changed.defrost()
    changed.DATASETS.TEST = tuple(names)
    changed.freeze()
    return changed
