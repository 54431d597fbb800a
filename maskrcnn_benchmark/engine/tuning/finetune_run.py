"""A fine-tuning command: every task, number of shots and seed it asks for, one after the other."""

import argparse
import logging
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.engine.common_arguments import deadline_after
from maskrcnn_benchmark.engine.launch import process_group
from maskrcnn_benchmark.engine.testing.task_model import find_weight
from maskrcnn_benchmark.engine.training.training_run import RunOptions
from maskrcnn_benchmark.engine.tuning.finetune import BEST, CONFIG_FILE, TuningOptions, TuningResult, fine_tune
from maskrcnn_benchmark.engine.tuning.finetune_arguments import COPY_ONLY
from maskrcnn_benchmark.engine.tuning.finetune_plan import PlannedTuning, base_configuration, plan_tunings, sets_to_test
from maskrcnn_benchmark.engine.tuning.finetune_report import Outcome, report_tunings
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.checkpoint import TAG_FILE
from maskrcnn_benchmark.utils.complete_files import atomic_path
from maskrcnn_benchmark.utils.logger import setup_logger
from maskrcnn_benchmark.utils.miscellaneous import mkdir, save_config
from maskrcnn_benchmark.utils.model_zoo import resolve_weights

logger = logging.getLogger("maskrcnn_benchmark.finetune")


def run(args: argparse.Namespace, opts: Sequence[str]) -> int:
    """Fine-tunes as the arguments say (see `finetune_arguments`); returns the exit code."""
    deadline = deadline_after(args.max_minutes, time.monotonic())
    cfg = base_configuration(args, opts)
    with process_group(cfg.MODEL.DEVICE, args.local_rank) as device:
        mkdir(cfg.OUTPUT_DIR)
        setup_logger("maskrcnn_benchmark", cfg.OUTPUT_DIR, comm.get_rank())
        logger.info("Command: %s", " ".join(sys.argv))
        logger.info("Processes: %d; PyTorch %s; device %s", comm.get_world_size(), torch.__version__, device)
        if args.keep_testing:
            logger.warning("--keep_testing has no effect: each result is tested once")
        planned = plan_tunings(args, opts, cfg)
        save_config(cfg, Path(cfg.OUTPUT_DIR, CONFIG_FILE))
        tune_all(cfg, planned, device, args, deadline)
    return 0


def tune_all(
    cfg: CfgNode, planned: Sequence[PlannedTuning], device: torch.device, args: argparse.Namespace,
    deadline: float | None,
) -> list[Outcome]:  # fmt: skip
    """Runs the trainings until the deadline; returns those that came to their end, of which the files tell."""
    outcomes: list[Outcome] = []
    for number, plan in enumerate(planned, start=1):
        logger.info("Training %d of %d: %s, in %s", number, len(planned), plan.title, plan.folder)
        result = _tune(plan, device, args, deadline)
        if not result.is_finished:
            logger.info("Stopped; the same command goes on")
            return outcomes
        outcomes.append(Outcome(plan, result))
        if comm.is_main_process():
            report_tunings(cfg.OUTPUT_DIR, outcomes)
    return outcomes


def _tune(plan: PlannedTuning, device: torch.device, args: argparse.Namespace, deadline: float | None) -> TuningResult:
    if plan.shots is not None and plan.shots.shots == COPY_ONLY:
        return _copy_weights(plan)
    options = TuningOptions(
        RunOptions(
            resume=args.resume,
            deadline=deadline,
            use_tensorboard=args.use_tensorboard,
            resumes_weights_only=args.skip_optimizer_resume,
            measures_start=args.measure_start,
        ),
        skip_train=args.skip_train,
        skip_test=args.skip_test,
        tests_best=args.evaluate_only_best_on_test,
        test_sets=sets_to_test(plan.cfg, args.evaluate_only_best_on_test, args.push_both_val_and_test),
    )
    return fine_tune(plan.cfg, device, options)


def _copy_weights(plan: PlannedTuning) -> TuningResult:
    """The pre-trained weights as the best of a training, for tools that look for them there.

    Raises: ValueError without weights, and for a folder in which something was trained.
    """
    target = plan.folder / BEST
    if not plan.cfg.MODEL.WEIGHT:
        raise ValueError(f"{COPY_ONLY} shots copy MODEL.WEIGHT, which is empty: name a file or published weights")
    if comm.broadcast_object((plan.folder / TAG_FILE).is_file()):
        raise ValueError(
            f"{plan.folder} has checkpoints of a training, whose best would be lost: give another OUTPUT_DIR"
        )
    if comm.is_main_process():
        mkdir(plan.folder)
        source = resolve_weights(find_weight(plan.cfg.MODEL.WEIGHT))
        with atomic_path(target) as part:
            shutil.copyfile(source, part)
        save_config(plan.cfg, plan.folder / CONFIG_FILE)
        logger.info("Copied %s to %s; nothing is trained", source, target)
    comm.synchronize()
    return TuningResult(True, str(target))
