"""Parts of the detector that training leaves alone: their accelerated forms instead of their plain modules."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.modeling.backbone.backbone import Backbone, BackboneOutput
from maskrcnn_benchmark.modeling.backbone.fpn import FPN
from maskrcnn_benchmark.modeling.backbone.swin import SwinTransformer
from maskrcnn_benchmark.modeling.fusion.levels import flatten_levels
from maskrcnn_benchmark.modeling.heads.dyconv import DyConv
from maskrcnn_benchmark.ops.kernels import triton_support

from . import fpn, swin
from .dyconv import AcceleratedDyConv, LayerPlan, layer_plan
from .fpn import AcceleratedFPN
from .inference import own_numbers
from .precision import PRECISIONS, Precision
from .pyramid import PyramidShape
from .swin import AcceleratedSwin

Form = TypeVar("Form")


class PreparedForms(Generic[Form]):
    """Forms of a module for half precision, one for each type.

    They are prepared when they are first needed, and anew when the weights have changed. They are kept until then, in
    evaluation too, since a recorded step goes on to read them; `TrainingGraphs` drops its recordings when the weights
    of a frozen part change.

    Args:
        prepare: makes the form of the module for a precision, None where it has none.
    """

    def __init__(self, module: nn.Module, prepare: Callable[[Precision], Form | None]):
        self.module, self.prepare = module, prepare
        self._prepared: dict[str, Form | None] = {}  # by the name of a precision
        self._weights: tuple = ()

    def find(self, x: Tensor) -> Form | None:
        """The form that computes as autocast does now, x being the input.

        Returns: None where the plain module has to run: on a CPU, without autocast, where it is trained or has no
            such form.
        """
        precision = _precision_of_autocast(x.device.type)
        if precision is None or not triton_support.runs_kernels(x):
            return None
        parameters = list(self.module.parameters())
        if any(parameter.requires_grad for parameter in parameters):
            return None
        weights = tuple((parameter.data_ptr(), parameter._version) for parameter in parameters)
        if weights != self._weights:
            self._prepared, self._weights = {}, weights
        if precision.name not in self._prepared:
            if _is_recording(x):  # which comes after direct calls and can prepare nothing
                return None
            with own_numbers(precision, x):
                self._prepared[precision.name] = self.prepare(precision)
        return self._prepared[precision.name]


class FrozenImageEncoder:
    """Encodes pictures in half precision, as a frozen body and its pyramid would under autocast."""

    def __init__(self, backbone: Backbone):
        self.backbone = backbone
        self.forms = PreparedForms(backbone, self._prepare)

    def __reduce__(self) -> tuple:
        """Copies, which `copy.deepcopy` and `pickle` make with the model, prepare their own weights."""
        return FrozenImageEncoder, (self.backbone,)

    def __call__(self, images: Tensor) -> BackboneOutput | None:
        """Normalised images (B, 3, H, W) -> levels of the types and the layout that the plain modules give.

        Returns: None where those have to run; see `PreparedForms.find`.
        """
        parts = None if any(part.training for part in self.backbone.children()) else self.forms.find(images)
        if parts is None:
            return None
        body, pyramid = parts
        with own_numbers(body.precision, images):
            visual, shape = pyramid(body(images))
            return BackboneOutput(tuple(_planes(visual, shape)), None, None)

    def _prepare(self, precision: Precision) -> tuple[AcceleratedSwin, AcceleratedFPN] | None:
        body, pyramid = self.backbone.body, self.backbone.fpn
        if not isinstance(body, SwinTransformer) or not isinstance(pyramid, FPN):
            return None
        if swin.supports(body) or fpn.supports(pyramid):
            return None
        accelerated = AcceleratedFPN(pyramid, precision)
        return AcceleratedSwin(body, precision, num_maps=accelerated.num_maps), accelerated


class FrozenDyConv:
    """A frozen layer of dynamic convolutions whose input needs no gradient, as in the tower of linear probing.

    It draws no random numbers, unlike the fusion and the text layers around it, which keep their dropout.
    """

    def __init__(self, layer: DyConv):
        self.layer = layer
        self.forms = PreparedForms(layer, self._prepare)
        self._plans: dict[tuple[PyramidShape, torch.device], LayerPlan] = {}  # 0.2 MB each, which recordings read

    def __reduce__(self) -> tuple:
        """As of `FrozenImageEncoder`."""
        return FrozenDyConv, (self.layer,)

    def __call__(self, levels: Sequence[Tensor]) -> list[Tensor] | None:
        """Levels (B, C, H_l, W_l), finest first -> the same shapes in half precision; None as for images."""
        form = None if any(level.requires_grad for level in levels) else self.forms.find(levels[0])
        if form is None:
            return None
        shape, device = PyramidShape.of([level.shape[-2:] for level in levels]), levels[0].device
        if (shape, device) not in self._plans:
            if _is_recording(levels[0]):
                return None
            self._plans[shape, device] = layer_plan(shape, device, form.tuning.block_rows)
        with own_numbers(form.precision, levels[0]):
            visual = flatten_levels([level.to(form.precision.dtype) for level in levels])
            return _planes(form(visual, shape, plan=self._plans[shape, device]), shape)

    def _prepare(self, precision: Precision) -> AcceleratedDyConv | None:
        return None if AcceleratedDyConv.supports(self.layer) else AcceleratedDyConv(self.layer, precision)


def accelerate_frozen_layers(tower: nn.Module, is_on: bool) -> None:
    """Lets layers of dynamic convolutions run in their accelerated form where they are frozen, or no longer."""
    for layer in tower.modules():
        if isinstance(layer, DyConv):
            layer.frozen_form = FrozenDyConv(layer) if is_on else None


def _planes(visual: Tensor, shape: PyramidShape) -> list[Tensor]:
    """(B, N, C) -> levels (B, C, H_l, W_l), contiguous."""
    return [level.permute(0, 3, 1, 2).contiguous() for level in shape.levels(visual)]


def _is_recording(x: Tensor) -> bool:
    """Whether what is computed becomes part of a CUDA graph: what that reads has to be there before."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def _precision_of_autocast(device_type: str) -> Precision | None:
    """The half precision that autocast is on for, or None."""
    if not torch.is_autocast_enabled(device_type):
        return None
    dtype = torch.get_autocast_dtype(device_type)
    return next((one for one in PRECISIONS.values() if one.is_half and one.dtype == dtype), None)
