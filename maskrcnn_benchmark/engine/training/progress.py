"""What training reports: losses, times, throughput, remaining time, memory."""

import datetime
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.metric_logger import MetricLogger, TensorboardLogger

MIB = 1024.0 * 1024.0


class Progress:
    """Collects the losses on their device and reads them once per report, so that iterations do not wait for it.

    Args:
        meters: running statistics, also written to TensorBoard by a TensorboardLogger.
        first_iteration, max_iter: where this part of the run starts, and where the run ends.
        device: whose memory is reported.
    """

    def __init__(self, meters: MetricLogger, first_iteration: int, max_iter: int, device: torch.device):
        self.meters = meters
        self.max_iter = max_iter
        self.device = device
        self.logger = logging.getLogger("maskrcnn_benchmark.trainer")
        self._reported_iteration = first_iteration
        self._reported_at = time.monotonic()
        self._images = 0
        self._data_seconds = 0.0
        self._names: tuple[str, ...] = ()
        self._window: list[Tensor] = []
        self._iterations: list[int] = []  # of the window; those that were left out are missing
        self._is_paused = False
        self._rates: list[tuple[int, float]] = []  # images of all processes, seconds

    def restart_clock(self) -> None:
        """Leaves the time since the last report out of the statistics: it went into something else."""
        self._reported_at = time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time of the block out of the statistics, also of a block within the block."""
        if self._is_paused:
            yield
            return
        self._is_paused, started = True, time.monotonic()
        try:
            yield
        finally:
            self._is_paused = False
            self._reported_at += time.monotonic() - started

    @property
    def images_per_s(self) -> float:
        """Images of all processes per second of training over all reports; the first one, with all starts, is left out
        if there are others. NaN before the first."""
        rates = self._rates[1:] or self._rates
        return sum(images for images, _ in rates) / sum(seconds for _, seconds in rates) if rates else math.nan

    def update(self, iteration: int, losses: Mapping[str, Tensor], num_images: int, data_seconds: float) -> None:
        """Takes in one iteration; `num_images` of this process."""
        if self._names != tuple(losses):
            self._names, self._window, self._iterations = tuple(losses), [], []
        self._window.append(torch.stack([loss.detach().float() for loss in losses.values()]))
        self._iterations.append(iteration)
        self._images += num_images
        self._data_seconds += data_seconds

    def report(
        self, iteration: int, learning_rate: float, weight_decay: float, rates: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Logs one line, resets the window and returns the latest losses with `images_per_s`.

        TensorBoard gets the learning `rates` by name, beside what the line says.
        """
        rows = self._read_losses()
        seconds = max(time.monotonic() - self._reported_at, 1e-9)
        iterations = max(iteration - self._reported_iteration, 1)
        self._rates.append((self._images * comm.get_world_size(), seconds))
        images_per_s = self._rates[-1][0] / seconds
        for number, row in zip(self._iterations, rows, strict=True):
            if isinstance(self.meters, TensorboardLogger):
                self.meters.iteration = number
            self.meters.update(loss=sum(row.values()), **row)
        self.meters.update(time=seconds / iterations, data=self._data_seconds / iterations)
        remaining = self.meters.time.global_avg * (self.max_iter - iteration)
        memory = torch.cuda.max_memory_allocated(self.device) / MIB if self.device.type == "cuda" else 0.0
        self.logger.info(
            self.meters.delimiter.join(
                (
                    f"eta: {datetime.timedelta(seconds=int(remaining))}",
                    f"iter: {iteration}",
                    str(self.meters),
                    f"lr: {learning_rate:.6f}",
                    f"wd: {weight_decay:.6f}",
                    f"max mem: {memory:.0f}",
                    f"images/s: {images_per_s:.1f}",
                )
            )
        )
        self.meters.record(
            iteration,
            **{"lr": learning_rate, **(rates or {})},
            weight_decay=weight_decay,
            images_per_s=images_per_s,
            max_memory_mib=memory,
        )
        self._reported_iteration, self._reported_at = iteration, time.monotonic()
        self._images, self._data_seconds, self._window, self._iterations = 0, 0.0, [], []
        return {**(rows[-1] if rows else {}), "images_per_s": images_per_s}

    def _read_losses(self) -> list[dict[str, float]]:
        """The losses of the window, averaged over processes (right on rank 0). Waits for the device."""
        if not self._window:
            return []
        values = comm.reduce_sum(torch.stack(self._window)) / comm.get_world_size()
        return [dict(zip(self._names, row, strict=True)) for row in values.tolist()]
