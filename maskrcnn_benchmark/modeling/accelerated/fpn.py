"""The feature pyramid for inference on a GPU: all levels in one channels-last tensor."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn_benchmark.modeling.backbone.fpn import FPN, LastLevelP6P7
from maskrcnn_benchmark.ops.kernels.upsample_add import upsample_add

from .precision import Precision
from .pyramid import PyramidShape


def supports(fpn: nn.Module) -> str | None:
    """Why `AcceleratedFPN` cannot run a pyramid; None if it can."""
    if type(fpn) is not FPN:
        return f"the pyramid is a {type(fpn).__name__}, not an FPN"
    if fpn.use_pan:
        return "it has a second, bottom-up path"
    if not isinstance(fpn.spp, nn.Identity):
        return "it pools the coarsest map"
    if not isinstance(fpn.top_blocks, LastLevelP6P7):
        return f"its top block is a {type(fpn.top_blocks).__name__}, not a LastLevelP6P7"
    for i in fpn.indices:
        for name in (f"fpn_inner{i}", f"fpn_layer{i}"):
            if not isinstance(fpn.get_submodule(name), nn.Conv2d):
                return f"{name} normalises or activates its convolution"
    return None


class _Convolution:
    """A 3x3 convolution with "same" padding over channels-last maps; the bias is added where the result is stored."""

    def __init__(self, convolution: nn.Conv2d, precision: Precision):
        self.stride = convolution.stride[0]
        weight = precision.operand(convolution.weight)
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        assert convolution.bias is not None
        self.bias = convolution.bias.detach().to(precision.dtype)

    def store(self, x: Tensor, out: Tensor) -> None:
        """x (B, H, W, C) -> out (B, ceil(H / stride), ceil(W / stride), C)."""
        result = F.conv2d(x.permute(0, 3, 1, 2), self.weight, stride=self.stride, padding=1)
        torch.add(result.permute(0, 2, 3, 1), self.bias, out=out)


class _ColumnConvolution(_Convolution):
    """The same as a matrix product: on a GPU exact float32 convolutions take several times as long as that."""

    def __init__(self, convolution: nn.Conv2d, precision: Precision):
        super().__init__(convolution, precision)
        self.matrix = self.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()  # (9 C, O)

    def store(self, x: Tensor, out: Tensor) -> None:
        for image, result in zip(F.pad(x, (0, 0, 1, 1, 1, 1)), out, strict=True):  # columns of one image at a time
            windows = image.unfold(0, 3, self.stride).unfold(1, 3, self.stride)  # (H, W, C, 3, 3)
            columns = windows.permute(0, 1, 3, 4, 2).reshape(-1, len(self.matrix))
            result.copy_(torch.addmm(self.bias, columns, self.matrix).view(result.shape))


class AcceleratedFPN:
    """`FPN.forward` with channels last and in one precision.

    Weights are prepared at construction and must not change as long as this is used.

    Args:
        fpn: in evaluation mode, on the device of the maps.
        precision: of maps and levels.
    Raises: ValueError if `supports` names a reason.
    """

    @torch.no_grad()
    def __init__(self, fpn: FPN, precision: Precision):
        if reason := supports(fpn):
            raise ValueError(f"no accelerated feature pyramid: {reason}")
        inner = [fpn.get_submodule(f"fpn_inner{i}") for i in fpn.indices]
        self.laterals = [
            (precision.operand(conv.weight.flatten(1)), conv.bias.detach().to(precision.dtype)) for conv in inner
        ]
        convolution = _ColumnConvolution if precision.name == "fp32" else _Convolution
        self.layers = [convolution(fpn.get_submodule(f"fpn_layer{i}"), precision) for i in fpn.indices]
        self.p6, self.p7 = convolution(fpn.top_blocks.p6, precision), convolution(fpn.top_blocks.p7, precision)
        self.uses_p5 = fpn.top_blocks.use_p5

    @property
    def num_maps(self) -> int:
        """How many maps of the body, counted from the coarsest, the pyramid reads."""
        return len(self.laterals)

    @torch.no_grad()
    def __call__(self, maps: Sequence[Tensor]) -> tuple[Tensor, PyramidShape]:
        """Maps (B, H_l, W_l, C_l) of the body, contiguous, finest first -> all levels (B, N, C), and their sizes."""
        maps = list(maps)[-self.num_maps :]
        sizes = [tuple(level.shape[1:3]) for level in maps]
        for _ in range(2):
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        shape = PyramidShape.of(sizes)
        visual = maps[0].new_empty(maps[0].shape[0], shape.total, self.p7.weight.shape[0])
        *levels, p6, p7 = shape.levels(visual)
        merged: Tensor | None = None
        for i in reversed(range(self.num_maps)):
            lateral = F.linear(maps[i], *self.laterals[i])
            merged = lateral if merged is None else upsample_add(lateral, merged)
            self.layers[i].store(merged, levels[i])
        self.p6.store(levels[-1] if self.uses_p5 else maps[-1], p6)
        self.p7.store(p6.relu(), p7)
        return visual, shape
