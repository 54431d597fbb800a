"""A dynamic head layer in five launches: offsets, 13 deformable convolutions, statistics, activation, mixture."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn_benchmark.layers import DYReLU, ModulatedDeformConv
from maskrcnn_benchmark.modeling.accelerated.precision import Precision
from maskrcnn_benchmark.modeling.accelerated.pyramid import PyramidShape
from maskrcnn_benchmark.modeling.heads.dyconv import DyConv
from maskrcnn_benchmark.ops.kernels import deform_conv, dyconv_mix, pyramid_conv
from maskrcnn_benchmark.ops.kernels.deform_columns import deform_columns
from maskrcnn_benchmark.ops.kernels.deform_conv import ConvTask, Tuning, block_table, int_table
from maskrcnn_benchmark.ops.kernels.triton_support import runs_kernels

COARSER, OWN, FINER = 0, 1, 2  # the convolutions of a DyConv by the level that they read
LayerNormWeights = tuple[Tensor, Tensor, float]  # weight (C,), bias (C,) in float32, and eps


class LayerPlan(NamedTuple):
    """Tables, on the device, of the work that one layer does on pyramids of one shape; see `ops.kernels`.

    Attributes:
        tasks, branches, conv_blocks, offset_blocks, mix_blocks, levels: int32 tables of the kernels.
        shares: (R,) weights with which an output counts in the spatial mean of its branch after resizing.
        rows: number R of outputs of all convolutions of an image.
        weight_rows: (first, end) rows of the outputs of each convolution.
    """

    tasks: Tensor
    branches: Tensor
    conv_blocks: Tensor
    offset_blocks: Tensor
    mix_blocks: Tensor
    levels: Tensor
    shares: Tensor
    rows: int
    weight_rows: dict[int, tuple[int, int]]


def resize_shares(source: int, target: int) -> Tensor:
    """(source,) float32: how much each number of a line counts in the mean after linear resizing (align_corners)."""
    line = torch.eye(source, dtype=torch.float64)[None]
    return F.interpolate(line, size=target, mode="linear", align_corners=True)[0].mean(1).float()


def _branch_tasks(shape: PyramidShape) -> tuple[list[ConvTask], list[int]]:
    """The convolutions, ordered by weight, then by the level that they contribute to, and those levels."""
    tasks, outputs, row = [], [], 0
    for kind, step in ((OWN, 0), (FINER, -1), (COARSER, 1)):
        for level, (height, width) in enumerate(shape.sizes):
            source = level + step
            if not 0 <= source < len(shape.sizes):
                continue
            size = shape.sizes[source] if kind == COARSER else (height, width)
            offsets = pyramid_conv.OUTPUTS * shape.starts[level]
            masks = offsets + pyramid_conv.OFFSETS * height * width
            stride = 2 if kind == FINER else 1
            tasks.append(ConvTask(shape.starts[source], *shape.sizes[source], row, *size, stride, kind, offsets, masks))
            outputs.append(level)
            row += size[0] * size[1]
    return tasks, outputs


@lru_cache(maxsize=64)
def layer_plan(shape: PyramidShape, device: torch.device, block_rows: int) -> LayerPlan:
    """The tables for pyramids of a shape and convolutions in blocks of `block_rows` outputs.

    Raises: ValueError unless every level halves the one before it, rounded up.
    """
    for finer, coarser in zip(shape.sizes, shape.sizes[1:], strict=False):
        if coarser != tuple((size + 1) // 2 for size in finer):
            raise ValueError(f"every level must halve the one before it, rounded up; got {shape.sizes}")
    tasks, outputs = _branch_tasks(shape)
    counts = [task.out_height * task.out_width for task in tasks]
    conv_blocks = block_table(counts, block_rows)
    found = {(task.weight, level): index for index, (task, level) in enumerate(zip(tasks, outputs, strict=True))}
    levels = [
        (start, *size, *(found.get((kind, level), -1) for kind in (OWN, FINER, COARSER)), 0, 0)
        for level, (start, size) in enumerate(zip(shape.starts, shape.sizes, strict=True))
    ]
    block_tasks = [task for task, _ in conv_blocks]
    branches = [
        (block_tasks.index(index), block_tasks.count(index), outputs.count(level))
        for index, level in enumerate(outputs)
    ]
    shares = []
    for task, level in zip(tasks, outputs, strict=True):
        rows, columns = (
            resize_shares(source, target)
            for source, target in zip((task.out_height, task.out_width), shape.sizes[level], strict=True)
        )
        shares.append((rows[:, None] * columns).flatten())
    ends = {kind: [task.out_start for task in tasks if task.weight == kind] for kind in (COARSER, OWN, FINER)}
    lengths = {kind: sum(n for task, n in zip(tasks, counts, strict=True) if task.weight == kind) for kind in ends}

    return LayerPlan(
        tasks=int_table(tasks, device),
        branches=int_table(branches, device),
        conv_blocks=int_table(conv_blocks, device),
        offset_blocks=int_table(block_table(list(shape.lengths), pyramid_conv.BLOCK_ROWS), device),
        mix_blocks=int_table(block_table(list(shape.lengths), dyconv_mix.MIX_ROWS), device),
        levels=int_table(levels, device),
        shares=torch.cat(shares).to(device),
        rows=sum(counts),
        weight_rows={kind: (min(starts), min(starts) + lengths[kind]) for kind, starts in ends.items() if starts},
    )


class AcceleratedDyConv:
    """A deformable DyConv for inference on one tensor with all levels, channels last.

    Offsets, sampling positions, interpolation and statistics are float32; features and products have the precision's
    type. In fp32 the sampled columns of one image at a time are stored and multiplied by the matrix library.

    Args:
        dyconv: the layer; its weights must not change as long as this is used.
        precision: of features and products.
        tuning: of the convolutions.
    Raises: ValueError with the reason where `supports` gives one.
    """

    def __init__(self, dyconv: DyConv, precision: Precision, tuning: Tuning | None = None):
        reason = self.supports(dyconv)
        if reason is not None:
            raise ValueError(f"this DyConv has no accelerated form: {reason}")
        self.precision, self.dyconv = precision, dyconv
        self.tuning = tuning or deform_conv.TUNINGS[precision.dtype]
        self.uses_columns = not precision.is_half and precision.dot == "ieee"
        convs, norms = [branch.conv for branch in dyconv.DyConv], [branch.bn for branch in dyconv.DyConv]
        self.weight = torch.stack(
            [precision.operand(deform_conv.rows_of_weight(conv.weight, torch.float32)) for conv in convs]
        )
        self.bias = _float_stack([conv.bias for conv in convs])
        offset_weight = precision.operand(deform_conv.rows_of_weight(dyconv.offset.weight, torch.float32))
        padding = pyramid_conv.PADDED_OUTPUTS - len(offset_weight)
        self.offset_weight = F.pad(offset_weight, (0, 0, 0, padding)).contiguous()
        self.offset_bias = F.pad(_float(dyconv.offset.bias), (0, padding))
        self.groups, self.eps = norms[0].num_groups, norms[0].eps
        attention = dyconv.AttnConv[1]
        self.branch_weights = dyconv_mix.BranchWeights(
            _float_stack([norm.weight for norm in norms]),
            _float_stack([norm.bias for norm in norms]),
            _float(attention.weight).flatten(),
            _float(attention.bias),
        )
        first, second = dyconv.relu.fc[0], dyconv.relu.fc[2]
        self.activation_weights = dyconv_mix.ActivationWeights(
            *(_float(weight) for weight in (first.weight, first.bias, second.weight, second.bias))
        )

    @staticmethod
    def supports(dyconv: DyConv) -> str | None:
        """Why the layer cannot be accelerated, or None if it can."""
        convs, norms = [branch.conv for branch in dyconv.DyConv], [branch.bn for branch in dyconv.DyConv]
        if dyconv.offset is None or not all(isinstance(conv, ModulatedDeformConv) for conv in convs):
            return "its convolutions are not deformable"
        if not all(isinstance(norm, nn.GroupNorm) and norm.affine for norm in norms):
            return "its norms are not GroupNorms with weights"
        if len({(norm.num_groups, norm.eps) for norm in norms}) > 1:
            return "its GroupNorms differ in groups or eps"
        if dyconv.AttnConv is None:
            return "it has no attention over scales"
        relu = dyconv.relu
        if not isinstance(relu, DYReLU) or not (relu.use_bias and relu.use_two) or relu.spa is not None:
            return "its activation is not a DyReLU of two pieces with offsets and without weights of positions"
        channels = convs[0].in_channels
        if channels & (channels - 1) or not 16 <= channels <= 256:
            return f"its number of channels is {channels}, not a power of 2 from 16 to 256"
        if len(relu.fc[0].bias) & (len(relu.fc[0].bias) - 1):
            return f"the hidden layer of its activation has {len(relu.fc[0].bias)} channels, not a power of 2"
        return None

    def __call__(
        self, visual: Tensor, shape: PyramidShape, norm: LayerNormWeights | None = None, plan: LayerPlan | None = None
    ) -> Tensor:
        """visual (B, N, C) -> the new levels (B, N, C), with `norm` normalised over the channels.

        plan: `layer_plan` of the shape, where the caller keeps it.
        """
        if not runs_kernels(visual):
            return self._plain(visual, shape, norm)
        if plan is None:
            plan = layer_plan(shape, visual.device, self.tuning.block_rows)
        offsets = self.predict_offsets(visual, plan)
        raw, partials = self.convolve(visual, offsets, plan)
        sums, coefficients = self.summarize(partials, plan)
        return dyconv_mix.mix_branches(
            raw, sums, coefficients, plan.levels, plan.tasks, plan.mix_blocks, torch.empty_like(visual), norm
        )

    def predict_offsets(self, visual: Tensor, plan: LayerPlan) -> Tensor:
        """Offsets and masks (B, 27 * N) of all levels, float32."""
        return pyramid_conv.offset_conv(
            visual, self.offset_weight, self.offset_bias, plan.levels, plan.offset_blocks, dot=self.precision.dot
        )

    def convolve(self, visual: Tensor, offsets: Tensor, plan: LayerPlan) -> tuple[Tensor, Tensor]:
        """Outputs (B, R, C) of all convolutions and their partial sums."""
        raw = visual.new_empty(len(visual), plan.rows, visual.shape[2])
        if self.uses_columns:
            self._convolve_columns(visual, offsets, plan, raw)
            sums = dyconv_mix.row_sums(raw, plan.shares, plan.tasks, plan.conv_blocks, self.tuning.block_rows)
            return raw, sums
        partials = deform_conv.deform_conv_rows(
            visual,
            offsets,
            offsets,
            self.weight,
            self.bias,
            plan.tasks,
            plan.conv_blocks,
            raw,
            tuning=self.tuning,
            dot=self.precision.dot,
            shares=plan.shares,
        )
        return raw, partials

    def _convolve_columns(self, visual: Tensor, offsets: Tensor, plan: LayerPlan, raw: Tensor) -> None:
        blocks = plan.conv_blocks
        for image in range(len(visual)):
            columns = deform_columns(
                visual[image : image + 1],
                offsets[image : image + 1],
                plan.tasks,
                blocks,
                self.tuning.block_rows,
                plan.rows,
            )[0]
            for kind, (start, end) in plan.weight_rows.items():
                bias = self.bias[kind].to(raw.dtype)
                torch.addmm(bias, columns[start:end], self.weight[kind].mT, out=raw[image, start:end])

    def summarize(self, partials: Tensor, plan: LayerPlan) -> tuple[Tensor, Tensor]:
        """Affine maps of the branches and coefficients of the activation, from the partial sums."""
        sums = dyconv_mix.branch_coefficients(
            partials,
            self.branch_weights,
            plan.branches,
            plan.tasks,
            groups=self.groups,
            eps=self.eps,
            block_rows=self.tuning.block_rows,
        )
        return sums, dyconv_mix.activation_coefficients(sums, self.activation_weights, plan.levels)

    def _plain(self, visual: Tensor, shape: PyramidShape, norm: LayerNormWeights | None) -> Tensor:
        """The definition: the layer itself, in the type of its weights."""
        dtype = self.dyconv.offset.weight.dtype
        levels = [level.to(dtype).permute(0, 3, 1, 2) for level in shape.levels(visual)]
        mixed = torch.cat([level.flatten(2).mT for level in self.dyconv.mix_levels(levels)], 1)
        if norm is not None:
            weight, bias, eps = norm
            mixed = F.layer_norm(mixed, weight.shape, weight.to(dtype), bias.to(dtype), eps)
        return mixed.to(visual.dtype)


def _float(parameter: Tensor) -> Tensor:
    return parameter.detach().float().contiguous()


def _float_stack(parameters: list[Tensor]) -> Tensor:
    return torch.stack([_float(parameter) for parameter in parameters])
