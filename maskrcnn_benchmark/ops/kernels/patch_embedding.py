"""Embedding of the patches of an image: a matrix product over every patch and a LayerNorm, in one kernel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .swin_norm import LayerNormWeights, normalise_rows
from .triton_support import as_operand, jit, next_power_of_2, runs_kernels, tl, triton


def patch_embedding_reference(
    images: Tensor, weight: Tensor, bias: Tensor, norm: LayerNormWeights, patch: int
) -> Tensor:
    """The definition of `patch_embedding`."""
    height, width = images.shape[-2:]
    images = F.pad(images.to(weight.dtype), (0, -width % patch, 0, -height % patch))
    patches = F.unfold(images, patch, stride=patch).transpose(1, 2).flatten(0, 1)
    return norm.normalise((patches @ weight).float() + bias)


@jit
def _patch_embedding_kernel(
    images: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    norm_weight: tl.tensor,
    norm_bias: tl.tensor,
    out: tl.tensor,
    rows: int,
    height: int,
    width: int,
    eps: float,
    image_channels: tl.constexpr,
    patch: tl.constexpr,
    channels: tl.constexpr,
    inner_block: tl.constexpr,
    block: tl.constexpr,
    tile_rows: tl.constexpr,
    dot: tl.constexpr,
) -> None:
    row = tl.program_id(0) * tile_rows + tl.arange(0, tile_rows)
    grid_height, grid_width = tl.cdiv(height, patch), tl.cdiv(width, patch)
    image = row // (grid_height * grid_width)
    inner = tl.arange(0, inner_block)
    is_inner = inner < image_channels * patch * patch
    y = (row // grid_width % grid_height * patch)[:, None] + (inner // patch % patch)[None, :]
    x = (row % grid_width * patch)[:, None] + (inner % patch)[None, :]
    plane = image[:, None] * image_channels + (inner // (patch * patch))[None, :]
    place = (plane.to(tl.int64) * height + y) * width + x
    is_inside = (row < rows)[:, None] & is_inner[None, :] & (y < height) & (x < width)
    patches = tl.load(images + place, mask=is_inside, other=0.0).to(weight.dtype.element_ty)
    columns = tl.arange(0, block)
    is_used = columns < channels
    kernel = tl.load(
        weight + inner[:, None] * channels + columns[None, :], mask=is_inner[:, None] & is_used[None, :], other=0.0
    )
    tokens = tl.dot(as_operand(patches, dot), kernel, input_precision=dot)
    tokens += tl.load(bias + columns, mask=is_used, other=0.0)[None, :]
    tokens = normalise_rows(tokens, norm_weight, norm_bias, eps, channels, block)
    target = row.to(tl.int64)[:, None] * channels + columns[None, :]
    tl.store(out + target, tokens, mask=(row < rows)[:, None] & is_used[None, :])


def patch_embedding(
    images: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm: LayerNormWeights,
    patch: int,
    *,
    dot: str = "ieee",
) -> Tensor:
    """Tokens of the patches that do not overlap, normalised; images are padded with zeros to whole patches.

    Args:
        images: (B, A, H, W) of any float type.
        weight: (A * patch^2, C), its type is that of the product's operands.
        bias: (C,) float32.
        norm: over the C numbers of a token.
        patch: height and width of a patch in pixels.
        dot: how float32 operands are multiplied, "ieee" or "tf32".
    Returns: (B * ceil(H / patch) * ceil(W / patch), C) float32.
    """
    if not runs_kernels(images):
        return patch_embedding_reference(images, weight, bias, norm, patch)
    batch, image_channels, height, width = images.shape
    inner, channels = weight.shape
    rows = batch * (-(-height // patch)) * (-(-width // patch))
    out = torch.empty(rows, channels, dtype=torch.float32, device=images.device)
    block = max(16, next_power_of_2(channels))
    tile_rows = 16 if weight.dtype == torch.float32 else 64  # float32 products need the registers
    _patch_embedding_kernel[(triton.cdiv(rows, tile_rows),)](
        images.contiguous(),
        weight,
        bias,
        norm.weight,
        norm.bias,
        out,
        rows,
        height,
        width,
        norm.eps,
        image_channels,
        patch,
        channels,
        max(16, next_power_of_2(inner)),
        block,
        tile_rows,
        dot,
        num_warps=4 if block <= 128 else 8,
    )
    return out
