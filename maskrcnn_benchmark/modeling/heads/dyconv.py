"""Dynamic convolution over a feature pyramid (Dynamic Head, arXiv:2106.08322): scale, spatial and task awareness."""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn_benchmark.layers import DYReLU, ModulatedDeformConv, NaiveSyncBatchNorm2d, h_sigmoid
from maskrcnn_benchmark.modeling.fusion.state import TowerState

NUM_TAPS = 9  # of a 3x3 kernel: each has an offset (dy, dx) and a mask


class Conv3x3Norm(nn.Module):
    """3x3 convolution, deformable or not, and its normalisation.

    Args: norm: "gn" (with num_groups), "nsync_bn", "sync_bn" or "" for none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        deformable: bool,
        norm: str = "gn",
        num_groups: int = 16,
    ):
        super().__init__()
        conv = ModulatedDeformConv if deformable else nn.Conv2d
        self.conv = conv(in_channels, out_channels, kernel_size=3, stride=stride, padding=1)
        norms = {
            "gn": lambda: nn.GroupNorm(num_groups, out_channels),
            "nsync_bn": lambda: NaiveSyncBatchNorm2d(out_channels),
            "sync_bn": lambda: nn.SyncBatchNorm(out_channels),
            "": lambda: None,
        }
        self.bn = norms[norm]()

    def forward(self, x: Tensor, *offset_and_mask: Tensor) -> Tensor:
        x = self.conv(x, *offset_and_mask)
        return x if self.bn is None else self.bn(x)


def reinterpret_offsets(offset: Tensor, mask: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Offsets (B, 18, H, W) and mask (B, 9, H, W) of a finer level as the operator reads them on a coarser one.

    The original gives the convolution of the coarser level the finer level's buffers, and its kernel indexes them with
    the coarser size: it reads the first 18 * h * w and 9 * h * w numbers of each image's flattened (channel, row,
    column) buffer. Published weights were trained with it (microsoft/GLIP#52, microsoft/DynamicHead#25).
    """
    count = size[0] * size[1]
    offset = offset.flatten(1)[:, : 2 * NUM_TAPS * count].unflatten(1, (2 * NUM_TAPS, *size))
    mask = mask.flatten(1)[:, : NUM_TAPS * count].unflatten(1, (NUM_TAPS, *size))
    return offset, mask


class DyConv(nn.Module):
    """Mixes every level with its neighbours; weights are shared over the levels.

    Level l becomes the attention-weighted mean of convolutions of itself, of level l - 1 (stride 2) and of level l + 1
    (resized), all driven by offsets predicted from level l; DyReLU follows.

    Args: use_dyfuse: scale attention; use_dyrelu: DyReLU instead of ReLU; use_deform: deformable convolutions;
        norm, num_groups: as `Conv3x3Norm`.
    Attributes:
        frozen_form: levels -> the new levels, or None where it cannot compute them: asked first in training; see
            `modeling.accelerated.frozen_parts`.
    """

    frozen_form: Callable[[Sequence[Tensor]], list[Tensor] | None] | None = None

    def __init__(
        self,
        in_channels: int = 256,
        out_channels: int = 256,
        *,
        use_dyfuse: bool = True,
        use_dyrelu: bool = True,
        use_deform: bool = True,
        norm: str = "gn",
        num_groups: int = 16,
    ):
        super().__init__()
        if use_deform and in_channels != out_channels:
            raise ValueError(
                f"a deformable DyConv needs equal widths, got {in_channels} and {out_channels} "
                "(MODEL.BACKBONE.OUT_CHANNELS and MODEL.DYHEAD.CHANNELS)"
            )
        options = {"deformable": use_deform, "norm": norm, "num_groups": num_groups}
        self.DyConv = nn.ModuleList(Conv3x3Norm(in_channels, out_channels, stride, **options) for stride in (1, 1, 2))
        extras = in_channels == out_channels
        if use_dyfuse and extras:
            self.AttnConv = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Conv2d(in_channels, 1, kernel_size=1), nn.ReLU(inplace=True)
            )
        else:
            self.AttnConv = None
        self.h_sigmoid = h_sigmoid()
        self.relu = DYReLU(in_channels, out_channels) if use_dyrelu and extras else nn.ReLU()
        self.offset = nn.Conv2d(in_channels, 3 * NUM_TAPS, kernel_size=3, padding=1) if use_deform else None
        self._init_weights()

    def _init_weights(self) -> None:
        parts = [self.DyConv] if self.AttnConv is None else [self.DyConv, self.AttnConv]
        for part in parts:
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.normal_(module.weight, 0, 0.01)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)

    def _scale_attention(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> x times one number of [0.5, 1] per image."""
        return x if self.AttnConv is None else x * self.h_sigmoid(self.AttnConv(x))

    def _mix(self, levels: list[Tensor], l: int) -> Tensor:
        """The new level l before its activation, (B, C, H_l, W_l)."""
        driven, coarser_driven = (), ()
        if self.offset is not None:
            offset_and_mask = self.offset(levels[l])
            offset = offset_and_mask[:, : 2 * NUM_TAPS].contiguous()
            driven = (offset, offset_and_mask[:, 2 * NUM_TAPS :].sigmoid())
            if l + 1 < len(levels):
                coarser_driven = reinterpret_offsets(*driven, tuple(levels[l + 1].shape[-2:]))
        mixed = self._scale_attention(self.DyConv[1](levels[l], *driven))
        count = 1
        if l > 0:
            mixed = mixed + self._scale_attention(self.DyConv[2](levels[l - 1], *driven))
            count += 1
        if l + 1 < len(levels):
            coarser = self.DyConv[0](levels[l + 1], *coarser_driven)
            size = tuple(mixed.shape[-2:])
            coarser = F.interpolate(coarser, size=size, mode="bilinear", align_corners=True)
            mixed = mixed + self._scale_attention(coarser)
            count += 1
        return mixed / count

    def mix_levels(self, levels: list[Tensor]) -> list[Tensor]:
        """Levels (B, C, H_l, W_l), finest first -> the same shapes."""
        return [self.relu(self._mix(levels, l)) for l in range(len(levels))]

    def forward(self, state: TowerState) -> TowerState:
        levels = self.frozen_form(state.visual) if self.training and self.frozen_form is not None else None
        return state._replace(visual=self.mix_levels(list(state.visual)) if levels is None else levels)
