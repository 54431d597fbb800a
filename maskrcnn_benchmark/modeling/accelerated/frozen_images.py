"""The image encoder in training where nothing of it is trained: its accelerated form instead of its plain modules."""

import torch
from torch import Tensor

from maskrcnn_benchmark.modeling.backbone.backbone import Backbone, BackboneOutput
from maskrcnn_benchmark.modeling.backbone.fpn import FPN
from maskrcnn_benchmark.modeling.backbone.swin import SwinTransformer
from maskrcnn_benchmark.ops.kernels import triton_support

from . import fpn, swin
from .fpn import AcceleratedFPN
from .inference import own_numbers
from .precision import PRECISIONS, Precision
from .swin import AcceleratedSwin

_Parts = tuple[AcceleratedSwin, AcceleratedFPN]


class FrozenImageEncoder:
    """Encodes pictures in half precision, as the body and the pyramid would under autocast.

    Weights are prepared when they are first needed, and anew when they have changed. They are kept until then, in
    evaluation too, since a recorded step goes on to read them; `TrainingGraphs` drops its recordings when the weights
    of a frozen part change.

    Args:
        backbone: body and pyramid of any kind; what `__call__` cannot accelerate it leaves to them.
    """

    def __init__(self, backbone: Backbone):
        self.backbone = backbone
        self._prepared: dict[str, _Parts | None] = {}  # by the name of a precision
        self._weights: tuple = ()

    def __reduce__(self) -> tuple:
        """Copies, which `copy.deepcopy` and `pickle` make with the model, prepare their own weights."""
        return FrozenImageEncoder, (self.backbone,)

    def __call__(self, images: Tensor) -> BackboneOutput | None:
        """Normalised images (B, 3, H, W) -> levels of the types and the layout that the plain modules give.

        Returns: None where those have to run: on a CPU, without autocast, where a part is trained or in training
            mode, or has no accelerated form.
        """
        precision = _precision_of_autocast(images.device.type)
        if precision is None or not triton_support.runs_kernels(images) or not self._is_frozen():
            return None
        with own_numbers(precision, images):
            parts = self._parts(precision, can_prepare=not _is_recording(images))
            if parts is None:
                return None
            body, pyramid = parts
            visual, shape = pyramid(body(images))
            levels = tuple(level.permute(0, 3, 1, 2).contiguous() for level in shape.levels(visual))
        return BackboneOutput(levels, None, None)

    def _is_frozen(self) -> bool:
        is_fixed = not any(part.training for part in self.backbone.children())
        return is_fixed and not any(parameter.requires_grad for parameter in self.backbone.parameters())

    def _parts(self, precision: Precision, *, can_prepare: bool) -> _Parts | None:
        """The encoder for a precision, None where there is none."""
        weights = tuple((parameter.data_ptr(), parameter._version) for parameter in self.backbone.parameters())
        if weights != self._weights:
            self._prepared, self._weights = {}, weights
        if precision.name not in self._prepared:
            if not can_prepare:
                return None
            self._prepared[precision.name] = self._prepare(precision)
        return self._prepared[precision.name]

    def _prepare(self, precision: Precision) -> _Parts | None:
        body, pyramid = self.backbone.body, self.backbone.fpn
        if not isinstance(body, SwinTransformer) or not isinstance(pyramid, FPN):
            return None
        if swin.supports(body) or fpn.supports(pyramid):
            return None
        accelerated = AcceleratedFPN(pyramid, precision)
        return AcceleratedSwin(body, precision, num_maps=accelerated.num_maps), accelerated


def _is_recording(images: Tensor) -> bool:
    """Whether what is computed becomes part of a CUDA graph: what that reads has to be there before."""
    return images.is_cuda and torch.cuda.is_current_stream_capturing()


def _precision_of_autocast(device_type: str) -> Precision | None:
    """The half precision that autocast is on for, or None."""
    if not torch.is_autocast_enabled(device_type):
        return None
    dtype = torch.get_autocast_dtype(device_type)
    return next((one for one in PRECISIONS.values() if one.is_half and one.dtype == dtype), None)
