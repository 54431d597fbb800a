"""Running values of a training loop: losses and times, smoothed for the log and written to TensorBoard."""

import math
from collections import defaultdict, deque
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.optional_files import make_event_writer


class SmoothedValue:
    """Follows a series of values: median and mean of the last ``window_size``, and the mean of all.

    A NaN shows in the median and the mean while it is in the window; in the mean of all it counts as zero, so that one
    bad step does not spoil it for good.
    """

    def __init__(self, window_size: int = 20) -> None:
        self.deque: deque[float] = deque(maxlen=window_size)
        self.total = 0.0
        self.count = 0

    def update(self, value: float) -> None:
        """Add one value."""
        self.deque.append(value)
        self.count += 1
        self.total += 0.0 if math.isnan(value) else value

    @property
    def median(self) -> float:
        """Lower median of the window."""
        return torch.tensor(list(self.deque)).median().item()

    @property
    def avg(self) -> float:
        """Mean of the window."""
        return sum(self.deque) / len(self.deque)

    @property
    def global_avg(self) -> float:
        """Mean of all values."""
        return self.total / self.count


class AverageMeter:
    """The latest value and the mean of all, each weighted by the number of items it stands for."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.val = self.avg = self.sum = 0.0
        self.count = 0

    def update(self, val: float, n: int = 1) -> None:
        """Add the mean ``val`` of ``n`` items."""
        self.val = val
        self.sum += val * n
        self.count += n
        self.avg = self.sum / self.count if self.count else 0.0


class MetricLogger:
    """Smoothed values by name, readable as attributes; as text "name: median (mean of all)" for each."""

    def __init__(self, delimiter: str = "\t") -> None:
        self.meters: dict[str, SmoothedValue] = defaultdict(SmoothedValue)
        self.delimiter = delimiter

    def update(self, **values: float | Tensor) -> None:
        """Add one value to each named series, numbers or one-element tensors."""
        for name, value in values.items():
            self.meters[name].update(_as_number(name, value))

    def record(self, iteration: int, **values: float) -> None:
        """Values that are no part of the text; only TensorBoard shows them."""

    def show(self, iteration: int, **pictures: np.ndarray) -> None:
        """Pictures (H, W, 3) uint8; only TensorBoard shows them."""

    def close(self) -> None:
        """Nothing; TensorBoard has a file to close."""

    def __getattr__(self, name: str) -> SmoothedValue:
        meters = self.__dict__.get("meters", {})
        if name in meters:
            return meters[name]
        raise AttributeError(f"{type(self).__name__!r} object has neither an attribute nor a meter {name!r}")

    def __str__(self) -> str:
        return self.delimiter.join(
            f"{name}: {meter.median:.4f} ({meter.global_avg:.4f})" for name, meter in self.meters.items()
        )


class TensorboardLogger(MetricLogger):
    """Also writes every value to TensorBoard, from the main process, at the number of its iteration.

    An iteration may call `update` several times with different names. A name that comes a second time begins the next
    iteration; a loop that does not log every iteration sets ``iteration`` itself before it calls `update`.

    Args:
        log_dir: folder of the event file.
        start_iter: iteration of the first values.
    """

    def __init__(self, log_dir: str, start_iter: int = 0, delimiter: str = "\t") -> None:
        super().__init__(delimiter)
        self._iteration = start_iter
        self._written: set[str] = set()
        self._writer = make_event_writer(log_dir) if comm.is_main_process() else None

    @property
    def iteration(self) -> int:
        """Number under which the next values are written."""
        return self._iteration

    @iteration.setter
    def iteration(self, iteration: int) -> None:
        self._iteration = iteration
        self._written.clear()

    def update(self, **values: float | Tensor) -> None:
        super().update(**values)
        if not self._written.isdisjoint(values):
            self.iteration += 1
        self._written.update(values)
        if self._writer is not None:
            for name in values:
                self._writer.add_scalar(name, self.meters[name].deque[-1], self._iteration)

    def record(self, iteration: int, **values: float) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, iteration)

    def show(self, iteration: int, **pictures: np.ndarray) -> None:
        if self._writer is not None:
            for name, picture in pictures.items():
                self._writer.add_image(name, picture, iteration, dataformats="HWC")

    def close(self) -> None:
        """Write out what is pending and close the event file."""
        if self._writer is not None:
            self._writer.close()


def _as_number(name: str, value: float | Tensor) -> float:
    if isinstance(value, Tensor):
        return value.item()
    if isinstance(value, Real):  # numpy's numbers too
        return float(value)
    raise TypeError(f"metric {name!r} must be a number or a one-element tensor, not {type(value).__name__}")
