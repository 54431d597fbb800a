"""In which precision a detector infers, and by its plain modules or by the accelerated ones."""

import contextlib
import logging
from collections.abc import Iterator

import torch
from torch import nn

from maskrcnn_benchmark.modeling.accelerated.inference import (
    AcceleratedDetector,
    float32_products,
    why_not_accelerated,
)
from maskrcnn_benchmark.modeling.accelerated.precision import Precision
from maskrcnn_benchmark.ops.kernels.triton_support import triton

logger = logging.getLogger(__name__)


class Acceleration:
    """Makes the accelerated form of a detector when it is first needed, and says so once where there is none.

    Args:
        precision: of inference on a GPU; on a CPU everything is float32.
        use_graphs: record CUDA graphs of shapes that come again.
    """

    def __init__(self, precision: Precision, *, use_graphs: bool = True):
        self.precision, self.use_graphs = precision, use_graphs
        self._detector: AcceleratedDetector | None = None
        self._is_checked = False

    def detector(self, model: nn.Module) -> AcceleratedDetector | None:
        """The accelerated form of a model in eval mode, None where only its plain modules can run."""
        if model.device.type != "cuda":
            return None
        if not self._is_checked:
            self._detector = self._make(model)
            self._is_checked = True
        return self._detector

    def _make(self, model: nn.Module) -> AcceleratedDetector | None:
        reason = "Triton is not installed" if triton is None else why_not_accelerated(model)
        if reason is not None:
            logger.warning("Inference in %s runs on the plain modules (%s).", self.precision.name, reason)
            return None
        with torch.no_grad():
            return AcceleratedDetector(model, self.precision, use_graphs=self.use_graphs)

    def __getstate__(self) -> dict[str, object]:
        """Copies, which `copy.deepcopy` and `pickle` make with the model, prepare their own weights and recordings."""
        return {**vars(self), "_detector": None, "_is_checked": False}

    def forget(self) -> None:
        """Drops the accelerated form, since the weights it was made from have changed."""
        self._detector, self._is_checked = None, False

    @contextlib.contextmanager
    def plain_numbers(self, device: torch.device) -> Iterator[None]:
        """The precision as far as the plain modules know it: autocast, and TensorFloat-32 or not."""
        if device.type != "cuda":
            yield
            return
        autocast = torch.autocast("cuda", self.precision.dtype, enabled=self.precision.is_half)
        with float32_products(self.precision), autocast:
            yield
