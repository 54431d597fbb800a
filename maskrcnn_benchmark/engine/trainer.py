"""The training loop."""

import contextlib
import datetime
import logging
import time
from collections.abc import Generator, Iterator, Mapping, MutableMapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from maskrcnn_benchmark.data.reproducible import describe_item
from maskrcnn_benchmark.data.worker_errors import worker_errors_in_one_line
from maskrcnn_benchmark.engine.training.accumulation import TrainingBatch, backward_in_parts
from maskrcnn_benchmark.engine.training.guarded_step import GuardedStep, StepMonitor
from maskrcnn_benchmark.engine.training.loss_guard import LossGuard
from maskrcnn_benchmark.engine.training.parallel import exchanges_gradients, gathered
from maskrcnn_benchmark.engine.training.progress import Progress
from maskrcnn_benchmark.engine.training.stop_request import StopRequest, stop_on_sigterm
from maskrcnn_benchmark.engine.training.trainer_options import TrainerOptions, amp_dtype, checkpoint_period_of
from maskrcnn_benchmark.engine.training.training_report import REPORT_FILE, forget_report, report_training
from maskrcnn_benchmark.engine.training.validation import Validation, make_validation
from maskrcnn_benchmark.solver import (
    ModelEma,
    WarmupReduceLROnPlateau,
    WeightDecaySchedule,
    learning_rates,
    make_weight_decay_schedule,
)
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.checkpoint import Checkpointer
from maskrcnn_benchmark.utils.metric_logger import MetricLogger
from maskrcnn_benchmark.utils.random_state import random_state, set_random_state
from maskrcnn_benchmark.utils.weight_conversion import unwrap_model

logger = logging.getLogger("maskrcnn_benchmark.trainer")

reduce_loss_dict = comm.reduce_dict  # historical name


def do_train(
    cfg,
    model: nn.Module,
    data_loader,
    optimizer: Optimizer,
    scheduler,
    checkpointer: Checkpointer,
    device: torch.device | str,
    checkpoint_period: int,
    arguments: MutableMapping[str, Any],
    val_data_loader=None,
    meters: MetricLogger | None = None,
    zero_shot: bool = False,
    *,
    deadline: float | None = None,
    ema_module: nn.Module | None = None,
) -> bool:
    """Trains until iteration len(data_loader), or until `deadline`; returns whether the end was reached.

    `arguments` comes from the checkpoint: `iteration` (iterations done), and where the run was resumed `scaler`,
    `model_ema`, `validation` and `random_state`. `val_data_loader` is measured at every checkpoint,
    `arguments["eval_result"]` holds the score. `zero_shot` is part of the historical signature: nothing is trained.
    `ema_module` holds the averaged weights of a sharded model, see ModelEma.
    """
    if zero_shot:
        return True
    options = TrainerOptions(
        checkpoint_period=checkpoint_period_of(cfg, len(data_loader), checkpoint_period),
        amp_dtype=amp_dtype(cfg),
        ema_decay=cfg.SOLVER.MODEL_EMA,
        max_negative_share=cfg.SOLVER.MAX_NEG_PER_BATCH,
        accumulation=cfg.SOLVER.GRADIENT_ACCUMULATION,
        deadline=deadline,
        max_bad_losses=cfg.SOLVER.MAX_BAD_LOSSES,
    )
    trainer = Trainer(
        model,
        data_loader,
        optimizer,
        scheduler,
        checkpointer,
        torch.device(device),
        options,
        arguments,
        meters,
        None if val_data_loader is None else make_validation(cfg, val_data_loader, device, meters),
        make_weight_decay_schedule(cfg, optimizer, scheduler),
        ema_module,
    )
    return trainer.train()


def targets_on_device(
    targets: Sequence[BoxList], device: torch.device, fields: Sequence[str] | None = None
) -> list[BoxList]:
    """The targets on the device of a model; with the `fields` alone that it reads, one transfer for each will do."""
    if fields is None:
        return [target.to(device) for target in targets]
    counts = [len(target) for target in targets]
    boxes = torch.cat([target.bbox for target in targets]).to(device, non_blocking=True).split(counts)
    moved = [BoxList(part, target.size, target.mode) for part, target in zip(boxes, targets, strict=True)]
    for field in fields:
        if not all(target.has_field(field) for target in targets):
            continue
        values = [target.get_field(field) for target in targets]
        per_box = targets[0].is_per_box(field)
        if isinstance(values[0], Tensor):
            joined = torch.cat(values) if per_box else torch.stack(values)
            joined = joined.to(device, non_blocking=True)
            values = joined.split(counts) if per_box else joined.unbind()
        for target, value in zip(moved, values, strict=True):
            target.add_field(field, value, per_box=per_box)
    return moved


class Trainer:
    """One training run.

    Args:
        model: called as model(images, targets, captions, positive_map, greenlight_map=...), returns a dict of losses.
            Where it has an attribute `training_fields`, its targets have no other fields.
        data_loader: yields batches of BatchCollator; its length is the number of iterations of the whole run. If it has
            a `batch_sampler` with `start_iter`, that is set to the iterations done, so that a resumed run goes on with
            the data it would have seen; any other loader is started from its beginning.
        checkpointer: its `save` is called with a name and entries; without a `save_dir`, nothing else is written.
        arguments: see do_train; updated as training goes on and stored in every checkpoint.
        meters: statistics of the progress line.
        validation: measures the model at every checkpoint; the score is stored as `eval_result`, and told to a
            scheduler that waits for a plateau. The best weights are saved as model_best.
        weight_decay_schedule: changes the optimizer's weight decay on the way.
        ema_module: holds the averaged weights, where the model cannot be copied.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader,
        optimizer: Optimizer,
        scheduler,
        checkpointer: Checkpointer,
        device: torch.device,
        options: TrainerOptions,
        arguments: MutableMapping[str, Any] | None = None,
        meters: MetricLogger | None = None,
        validation: Validation | None = None,
        weight_decay_schedule: WeightDecaySchedule | None = None,
        ema_module: nn.Module | None = None,
    ):
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.checkpointer = checkpointer
        self.folder: str = getattr(checkpointer, "save_dir", "")
        self.device = device
        self.options = options
        self.arguments = {"iteration": 0} if arguments is None else arguments
        self.max_iter = len(data_loader)
        self.iteration = int(self.arguments.get("iteration", 0))
        self.step = GuardedStep(
            optimizer,
            device,
            use_loss_scale=options.amp_dtype is torch.float16,
            averages_gradients=comm.get_world_size() > 1 and not exchanges_gradients(model),
        )
        self.monitor = StepMonitor(options.max_skipped_in_a_row)
        self.guard = LossGuard(
            options.max_bad_losses,
            is_overflow_normal=options.amp_dtype is torch.float16,
            folder=Path(self.folder) if self.folder else None,
            describe=partial(describe_item, getattr(data_loader, "dataset", None)),
        )
        self.ema = ModelEma(model, options.ema_decay, copied=ema_module) if options.ema_decay > 0 else None
        self.progress = Progress(meters or MetricLogger(delimiter="  "), self.iteration, self.max_iter, device)
        self.validation = validation
        self.weight_decay_schedule = weight_decay_schedule
        self._stop = StopRequest()
        self._must_stop = False
        self._restore()

    def train(self) -> bool:
        """Runs to the end, to the deadline or to a SIGTERM; returns whether the end was reached.

        Raises: WorkerLost when the system ends a process of the loader.
        """
        if self.iteration >= self.max_iter or (self.validation is not None and self.validation.is_over):
            logger.info("Nothing to train: iteration %d of %d is done", self.iteration, self.max_iter)
            if not Path(self.folder, REPORT_FILE).exists():  # killed after the last checkpoint
                report_training(self.progress.images_per_s, self.validation, self.folder)
            return True
        logger.info("Start training at iteration %d of %d", self.iteration, self.max_iter)
        started, first_iteration = time.monotonic(), self.iteration
        forget_report(self.folder)  # a longer run may be killed before its own
        self.model.train()
        self.progress.restart_clock()
        with self._noting_what_ends_it(), worker_errors_in_one_line(), stop_on_sigterm() as self._stop:
            is_finished = self._measure_if_due() or self._train_batches()
            if is_finished:
                self._measure_if_due(at_end=True)
            self._save("model_final" if is_finished else f"model_{self.iteration:07d}")
        seconds = time.monotonic() - started
        logger.info(
            "%s training time: %s (%.4f s / it)",
            "Total" if is_finished else f"Stopped at iteration {self.iteration} of {self.max_iter};",
            datetime.timedelta(seconds=int(seconds)),
            seconds / max(self.iteration - first_iteration, 1),
        )
        if is_finished:
            report_training(self.progress.images_per_s, self.validation, self.folder)
        return is_finished

    @contextlib.contextmanager
    def _noting_what_ends_it(self) -> Iterator[None]:
        """Leaves a line in the log of a run that ends with an error."""
        try:
            yield
        except Exception as error:
            logger.error("Training ended at iteration %d of %d: %s", self.iteration, self.max_iter, error)
            raise

    def train_batch(self, batch: Sequence[Any], data_seconds: float = 0.0) -> None:
        """One iteration: a step of everything on a batch of BatchCollator that was waited for so many seconds.

        Reports and checkpoints are left to `train`; the model must be in training mode.
        """
        images, targets, _, positive_map, _, greenlight_map = batch
        self.iteration += 1
        self.arguments["iteration"] = self.iteration
        if self._has_too_few_boxes(targets):
            return
        images = images.to(self.device, non_blocking=True)
        captions = [target.get_field("caption") for target in targets if target.has_field("caption")]
        targets = targets_on_device(targets, self.device, getattr(unwrap_model(self.model), "training_fields", None))
        maps = self._to_device(positive_map), self._to_device(greenlight_map)
        self.step.begin()
        losses = backward_in_parts(
            self.model,
            TrainingBatch(images, targets, captions, *maps),
            self.options.accumulation,
            self.step,
            self._autocast,
        )
        is_skipped = self.step.finish()
        self.scheduler.step()
        if self.weight_decay_schedule is not None:
            self.weight_decay_schedule.step(self.scheduler.last_epoch)
        if self.ema is not None:
            self.ema.update(self.model)
        self.monitor.update(self.iteration, losses, is_skipped)
        self.progress.update(self.iteration, losses, len(targets), data_seconds)
        self.guard.watch(self.iteration, losses, is_skipped, batch)

    def _train_batches(self) -> bool:
        """The loop over batches; returns whether it came to the end. The workers of the loader are gone then."""
        with contextlib.closing(self._batches()) as batches:
            for batch, data_seconds in batches:
                self.train_batch(batch, data_seconds)
                is_last = self.iteration == self.max_iter
                is_stopped = self._is_past_deadline() or self._must_stop
                if self.iteration % self.options.report_period == 0 or is_last or is_stopped:
                    self._report()  # also what has gathered when a run stops: the rest of it begins anew
                if is_stopped:
                    return is_last
                if self.iteration % self.options.checkpoint_period == 0 and not is_last:
                    if self._measure_if_due():
                        return True
                    self._save(f"model_{self.iteration:07d}")
        return True

    def _batches(self) -> Generator[tuple[tuple, float]]:
        """The batches that are left, each with the seconds it was waited for."""
        sampler = getattr(self.data_loader, "batch_sampler", None)
        if isinstance(getattr(sampler, "start_iter", None), int):
            sampler.start_iter = self.iteration
        iterator = iter(self.data_loader)
        while self.iteration < self.max_iter:
            asked = time.monotonic()
            try:
                batch = next(iterator)
            except StopIteration:
                raise RuntimeError(
                    f"the loader ended after iteration {self.iteration}; its length promises {self.max_iter}"
                ) from None
            yield batch, time.monotonic() - asked

    def _has_too_few_boxes(self, targets: Sequence[BoxList]) -> bool:
        """Whether to leave the batch out; decided on all pictures of all processes, so that they stay in step.

        They also agree here on whether one of them was asked to stop.
        """
        counts = torch.tensor([sum(len(target) == 0 for target in targets), len(targets), int(self._stop.is_made)])
        empty, pictures, stop_requests = comm.reduce_sum(counts).tolist()
        self._must_stop = stop_requests > 0
        if empty < pictures and empty <= self.options.max_negative_share * pictures:
            return False
        logger.warning(
            "Iteration %d: %d of %d pictures have no boxes (SOLVER.MAX_NEG_PER_BATCH %g), batch left out",
            self.iteration,
            empty,
            pictures,
            self.options.max_negative_share,
        )
        return True

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.options.amp_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.options.amp_dtype)

    def _to_device(self, tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(self.device, non_blocking=True)

    def _report(self) -> None:
        group = self.optimizer.param_groups[0]
        self.progress.report(self.iteration, group["lr"], group["weight_decay"], learning_rates(self.optimizer))
        message = self.monitor.check()
        if message:  # the guard has told losses that are not finite; gradients of float16 overflow till the scale fits
            logger.log(logging.INFO if self.guard.is_overflow_normal else logging.ERROR, "%s", message)

    def _is_past_deadline(self) -> bool:
        """Asked at every iteration of a single process, and at reports of several, who follow rank 0."""
        if self.options.deadline is None:
            return False
        is_past = time.monotonic() >= self.options.deadline
        if comm.get_world_size() == 1:
            return is_past
        return self.iteration % self.options.report_period == 0 and bool(comm.broadcast_object(is_past))

    def _save(self, name: str, *, is_resumed_from: bool = True) -> None:
        self.guard.check()
        states = comm.all_gather(random_state())
        extra = {"scaler": self.step.state_dict(), "random_state": states}
        if self.ema is not None:
            extra["model_ema"] = self.ema.state_dict()
        if self.validation is not None:
            extra["validation"] = self.validation.state_dict()
        with self.progress.paused():
            tag = {} if is_resumed_from else {"is_resumed_from": False}
            self.checkpointer.save(name, **tag, **{**self.arguments, **extra})

    def _measure_if_due(self, *, at_end: bool = False) -> bool:
        """Validates where a checkpoint is due and it was not done; returns whether training should end.

        A run that was stopped at a checkpoint comes here first. Random states are as if nothing had been measured.
        """
        is_due = at_end or (self.iteration > 0 and self.iteration % self.options.checkpoint_period == 0)
        if self.validation is None or not is_due or self.validation.iteration == self.iteration:
            return False
        state = random_state()
        is_averaged = self.validation.use_average and self.ema is not None
        measured = self.ema.ema if is_averaged else unwrap_model(self.model)
        with self.progress.paused(), gathered(measured):
            outcome = self.validation(measured, self.iteration)
        self.model.train()
        set_random_state(state)
        self.arguments["eval_result"] = outcome.score
        if isinstance(self.scheduler, WarmupReduceLROnPlateau):
            self.scheduler.step(outcome.score)
        if outcome.is_best:
            self._save("model_best", is_resumed_from=False)
        return outcome.is_over

    def _restore(self) -> None:
        """Takes scaler, averaged weights, validation and random states of a checkpoint out of the arguments."""
        self.step.load_state_dict(self.arguments.pop("scaler", {}))
        validated = self.arguments.pop("validation", None)
        if self.validation is not None and validated is not None:
            self.validation.load_state_dict(validated)
        averaged: Mapping[str, Tensor] | None = self.arguments.pop("model_ema", None)
        if self.ema is not None and averaged is not None:
            self.ema.load_state_dict(averaged)
        states = self.arguments.pop("random_state", None)
        if states is None:
            return
        if len(states) != comm.get_world_size():
            logger.warning(
                "The checkpoint is of %d processes, this run has %d: random states are not restored",
                len(states),
                comm.get_world_size(),
            )
            return
        set_random_state(states[comm.get_rank()])
