"""A whole training run: from a configuration file to checkpoints in its output folder."""

import argparse
import contextlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from maskrcnn_benchmark.config import CfgNode, default_config, try_to_find
from maskrcnn_benchmark.data.build import make_data_loader
from maskrcnn_benchmark.engine.common_arguments import deadline_after
from maskrcnn_benchmark.engine.launch import (
    local_rank_of,
    process_group,
    setup_for_distributed,
)
from maskrcnn_benchmark.engine.trainer import do_train
from maskrcnn_benchmark.engine.training.parallel import ParallelOptions, distribute
from maskrcnn_benchmark.engine.training.profiling import profile_model
from maskrcnn_benchmark.engine.training.training_arguments import RESUME_AUTO, RESUME_NONE
from maskrcnn_benchmark.engine.tuning.feature_cache import cache_features
from maskrcnn_benchmark.modeling.detector import GeneralizedVLRCNN, build_detection_model
from maskrcnn_benchmark.solver import make_lr_scheduler, make_optimizer
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.checkpoint import Checkpointer, DetectronCheckpointer
from maskrcnn_benchmark.utils.logger import setup_logger
from maskrcnn_benchmark.utils.metric_logger import MetricLogger, TensorboardLogger
from maskrcnn_benchmark.utils.miscellaneous import mkdir, save_config
from maskrcnn_benchmark.utils.random_state import random_state, seed_everything, set_random_state

DELIMITER = "  "

logger = logging.getLogger("maskrcnn_benchmark.trainer")


@dataclass(frozen=True)
class RunOptions:
    """What the command line says beside the configuration.

    Args:
        resume: "auto" goes on from the last checkpoint of the output folder if there is one, "none" starts afresh, and
            a path goes on from that checkpoint.
        deadline: time.monotonic() at which to save and stop, None for never.
        use_tensorboard: write event files to the output folder.
        skip_test: accepted; training does not test.
        resumes_weights_only: of a checkpoint to go on from, take the weights and start counting anew.
        measures_start: measure the weights before the first step, too, if anything is measured.
        allows_partial: take what fits of first weights that are of another architecture.
    """

    resume: str = RESUME_AUTO
    deadline: float | None = None
    use_tensorboard: bool = False
    skip_test: bool = False
    resumes_weights_only: bool = False
    measures_start: bool = False
    allows_partial: bool = False


class Loaders(NamedTuple):
    """The data of a run; `validation` is None where nothing is measured in training."""

    train: Any
    validation: Any | None


class Trained(NamedTuple):
    """A run that has ended.

    Attributes:
        model: without the wrapper for several processes.
        is_finished: whether it came to its end, or stopped at a deadline or a SIGTERM.
        start_figures: of the weights before the first step, if they were measured.
    """

    model: nn.Module
    is_finished: bool
    start_figures: dict[str, float] | None


def configuration(args: argparse.Namespace, opts: Sequence[str]) -> CfgNode:
    """The merged and frozen configuration of the arguments."""
    cfg = default_config()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(list(opts))
    if args.override_output_dir:
        cfg.OUTPUT_DIR = args.override_output_dir
    cfg.freeze()
    return cfg


def run(args: argparse.Namespace, opts: Sequence[str]) -> int:
    """Trains as the arguments say; returns the exit code."""
    deadline = deadline_after(args.max_minutes, time.monotonic())
    cfg = configuration(args, opts)
    local_rank = local_rank_of(args.local_rank)
    with process_group(cfg.MODEL.DEVICE, args.local_rank) as device:
        if args.disable_output_distributed:
            setup_for_distributed(local_rank == 0)
        if args.profile:
            sys.stdout.write(f"{profile_model(cfg, device)}\n")
            return 0
        _prepare_output(cfg, args)
        seed_everything(cfg.SOLVER.SEED + comm.get_rank())
        options = RunOptions(
            resume=args.resume,
            deadline=deadline,
            use_tensorboard=args.use_tensorboard,
            skip_test=args.skip_test,
            allows_partial=args.allow_partial,
        )
        train(cfg, device, options)
    return 0


def _prepare_output(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Makes the output folder with the configuration in it, and sets up the log."""
    if not cfg.OUTPUT_DIR:
        raise ValueError("OUTPUT_DIR is empty: training needs a folder for its checkpoints")
    mkdir(cfg.OUTPUT_DIR)
    setup_logger("maskrcnn_benchmark", cfg.OUTPUT_DIR, comm.get_rank())
    logger.info("Command: %s", " ".join(sys.argv))
    logger.info("Processes: %d; PyTorch %s", comm.get_world_size(), torch.__version__)
    if comm.is_main_process() and args.save_original_config:
        shutil.copyfile(args.config_file, Path(cfg.OUTPUT_DIR, "config_original.yml"))


def train(cfg: CfgNode, device: torch.device, options: RunOptions | None = None) -> nn.Module:
    """Builds model, data and solver, trains, and returns the model (without the wrapper for several processes)."""
    return run_training(cfg, device, options or RunOptions()).model


def make_loaders(cfg: CfgNode) -> Loaders:
    """The data that a configuration trains on and is measured on; fixes SOLVER.MAX_ITER."""
    is_distributed = comm.get_world_size() > 1
    data_loader = make_data_loader(cfg, is_train=True, is_distributed=is_distributed)
    if cfg.TEST.DURING_TRAINING or cfg.SOLVER.USE_AUTOSTEP:
        first, *_ = make_data_loader(cfg, is_train=False, is_distributed=is_distributed, for_evaluation=True)
        return Loaders(data_loader, first)
    if cfg.SOLVER.AUTO_TERMINATE_PATIENCE != -1:
        logger.warning("SOLVER.AUTO_TERMINATE_PATIENCE has no effect: TEST.DURING_TRAINING is False")
    return Loaders(data_loader, None)


def run_training(
    cfg: CfgNode, device: torch.device, options: RunOptions, make: Callable[[CfgNode], Loaders] = make_loaders
) -> Trained:
    """Builds model, data and solver, and trains. `make` gives the data, and fixes SOLVER.MAX_ITER."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    model = build_detection_model(cfg).to(device).train()  # its parts freeze now, before anything counts parameters
    record_steps(model, cfg)
    data_loader, val_data_loader = make(cfg)
    data_loader = cache_features(cfg, model, data_loader)
    save_config(cfg, os.path.join(cfg.OUTPUT_DIR, "config.yml"))
    model, trained, ema_module = distribute(
        model, device, ParallelOptions.from_config(cfg), with_average=cfg.SOLVER.MODEL_EMA > 0
    )
    optimizer = make_optimizer(cfg, model)
    scheduler = make_lr_scheduler(cfg, optimizer)
    checkpointer = DetectronCheckpointer(cfg, model, optimizer, scheduler, cfg.OUTPUT_DIR)
    arguments = {"iteration": 0, **_load(checkpointer, cfg.MODEL.WEIGHT, options)}
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    logger.info("Parameters to train: %d; device %s", trainable, device)
    _warn_of_frozen_stages(cfg)
    if options.measures_start and val_data_loader is not None and not arguments["iteration"]:
        arguments["start_figures"] = _measure_start(cfg, trained, val_data_loader, device)
    with contextlib.closing(_meters(cfg, options, int(arguments["iteration"]))) as meters:
        is_finished = do_train(
            cfg,
            trained,
            data_loader,
            optimizer,
            scheduler,
            checkpointer,
            device,
            cfg.SOLVER.CHECKPOINT_PERIOD,
            arguments,
            val_data_loader,
            meters,
            deadline=options.deadline,
            ema_module=ema_module,
        )
    return Trained(model, is_finished, arguments.get("start_figures"))


def _warn_of_frozen_stages(cfg: CfgNode) -> None:
    """The default freezes the first stage, and the configuration of GLIP-L leaves it so."""
    number = cfg.MODEL.BACKBONE.FREEZE_CONV_BODY_AT
    if number < 0 or cfg.MODEL.BACKBONE.FREEZE:
        return
    stages = f" and the first {number - 1} stages" if number > 2 else " and the first stage" if number == 2 else ""
    logger.warning(
        "MODEL.BACKBONE.FREEZE_CONV_BODY_AT %d: the patch embedding%s of the image encoder stay as they are; -1 trains "
        "all of it",
        number,
        stages,
    )


def _measure_start(cfg: CfgNode, model: nn.Module, data_loader, device: torch.device) -> dict[str, float]:
    """The figures of the weights that training starts from; random states are as if nothing had been measured."""
    from maskrcnn_benchmark.engine.inference import measure_model  # it imports the evaluators

    state = random_state()
    (figures,) = measure_model(cfg, model, [data_loader], device)
    set_random_state(state)
    logger.info("Before training: %s", ", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
    return figures


def record_steps(model: GeneralizedVLRCNN, cfg: CfgNode) -> None:
    """Lets the model record its training steps where SOLVER.CUDA_GRAPHS asks for it.

    Raises: ValueError for a model or a configuration with which that is not possible.
    """
    if not cfg.SOLVER.CUDA_GRAPHS:
        return
    if cfg.SOLVER.FSDP:
        raise ValueError("SOLVER.CUDA_GRAPHS True and SOLVER.FSDP True exclude each other: switch one of them off")
    model.use_training_graphs()


def _load(checkpointer: Checkpointer, weight: str, options: RunOptions) -> dict[str, Any]:
    """Gives the model its first weights, or everything its state at a checkpoint, of which it returns the rest."""
    if options.resume not in (RESUME_AUTO, RESUME_NONE):
        return checkpointer.resume(options.resume)
    if options.resume == RESUME_AUTO and checkpointer.has_checkpoint():
        # says that it does not read the weight
        return checkpointer.load(weight, skip_optimizer=options.resumes_weights_only)
    if not weight:
        logger.info("MODEL.WEIGHT is empty: training starts from random weights")
        return {}
    try:
        weight = try_to_find(weight)
    except FileNotFoundError:
        logger.info("MODEL.WEIGHT %s is no file in the search path: looking for a published name", weight)
    return checkpointer.load(weight, force=True, strict=not options.allows_partial)


def _meters(cfg: CfgNode, options: RunOptions, iteration: int) -> MetricLogger:
    if options.use_tensorboard:
        return TensorboardLogger(cfg.OUTPUT_DIR, start_iter=iteration, delimiter=DELIMITER)
    return MetricLogger(delimiter=DELIMITER)
