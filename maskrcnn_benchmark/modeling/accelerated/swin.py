"""The Swin Transformer body for inference on a GPU: tokens stay where they lie, row by row, from images to maps.

Windows, shifts and padding exist only as arithmetic inside the attention kernel, so every matrix product and every
LayerNorm runs over the tokens of the map and nothing is moved between them.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn_benchmark.modeling.backbone.swin import (
    PatchEmbed,
    PatchMerging,
    SwinTransformer,
    SwinTransformerBlock,
    WindowAttention,
)
from maskrcnn_benchmark.ops.kernels.gelu import gelu_
from maskrcnn_benchmark.ops.kernels.patch_embedding import patch_embedding
from maskrcnn_benchmark.ops.kernels.swin_mlp import MlpWeights, is_worthwhile, swin_mlp
from maskrcnn_benchmark.ops.kernels.swin_norm import LayerNormWeights, add_layer_norm, merge_layer_norm
from maskrcnn_benchmark.ops.kernels.triton_support import next_power_of_2
from maskrcnn_benchmark.ops.kernels.window_attention import window_attention

from .precision import Precision

SMALLEST_HEAD = 16  # channels


def supports(body: nn.Module) -> str | None:
    """Why `AcceleratedSwin` cannot run a body; None if it can."""
    if type(body) is not SwinTransformer:
        return f"the body is a {type(body).__name__}, not a SwinTransformer"
    if type(body.patch_embed) is not PatchEmbed:
        return f"the patch embedding is a {type(body.patch_embed).__name__} (version v2), not a PatchEmbed"
    for stage in body.layers:
        for block in stage.blocks:
            if type(block) is not SwinTransformerBlock or type(block.attn) is not WindowAttention:
                return f"a block is a {type(block).__name__} with a {type(block.attn).__name__}"
        if not isinstance(stage.downsample, PatchMerging | None):
            return f"the down-sampling is a {type(stage.downsample).__name__}, not a PatchMerging"
    return None


class LinearWeights(NamedTuple):
    """weight (out, in) and bias (out,) or None, in the type of the operands."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, linear: nn.Linear, precision: Precision, gamma: Tensor | None = None) -> "LinearWeights":
        """gamma (out,) scales what the layer returns."""
        weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
        if gamma is not None:
            weight = gamma.detach()[:, None] * weight
            bias = None if bias is None else gamma.detach() * bias
        return cls(precision.operand(weight), None if bias is None else bias.to(precision.dtype))

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def _attention_weights(block: SwinTransformerBlock, precision: Precision) -> tuple[LinearWeights, LinearWeights]:
    """Projections of an attention to queries, keys and values, and from the heads to the output.

    Heads get as many channels as the kernel takes, a power of 2; those that are added are zero.
    """
    attention = block.attn
    width = attention.qkv.in_features // attention.num_heads
    added = max(SMALLEST_HEAD, next_power_of_2(width)) - width
    weight, bias = (
        part.detach().unflatten(0, (3, attention.num_heads, width)).clone()
        for part in (attention.qkv.weight, attention.qkv.bias)
    )
    if added:  # the kernel scales by the width that it sees
        weight[0] *= ((width + added) / width) ** 0.5
        bias[0] *= ((width + added) / width) ** 0.5
    weight, bias = F.pad(weight, (0, 0, 0, added)).flatten(0, 2), F.pad(bias, (0, added)).flatten()
    proj = LinearWeights.of(attention.proj, precision, block.gamma)
    heads = F.pad(proj.weight.unflatten(1, (attention.num_heads, width)), (0, added)).flatten(1)
    return LinearWeights(precision.operand(weight), bias.to(precision.dtype)), proj._replace(weight=heads)


class Tokens(NamedTuple):
    """Tokens (B * H * W, C) as the sum of a residual in float32 and a branch in the type of the operands.

    One of the two may be None; normed, if it is there, is the next LayerNorm of the sum.
    """

    residual: Tensor | None
    branch: Tensor | None
    normed: Tensor | None


class _Block:
    """The prepared weights of a SwinTransformerBlock."""

    def __init__(self, block: SwinTransformerBlock, precision: Precision):
        dtype, self.precision = precision.dtype, precision
        self.window, self.shift = block.window, block.shift
        self.norm1, self.norm2 = LayerNormWeights.of(block.norm1), LayerNormWeights.of(block.norm2)
        self.qkv, self.proj = _attention_weights(block, precision)
        self.position_bias = block.attn.relative_position_bias().detach().float().contiguous()
        self.mlp: MlpWeights | None = None
        if is_worthwhile(block.mlp.fc1.in_features, block.mlp.fc1.out_features, dtype):
            self.mlp = MlpWeights.of(block.mlp.fc1, block.mlp.fc2, dtype, block.gamma)
        else:
            self.fc1 = LinearWeights.of(block.mlp.fc1, precision)
            self.fc2 = LinearWeights.of(block.mlp.fc2, precision, block.gamma)

    def __call__(self, tokens: Tokens, size: tuple[int, int], next_norm: LayerNormWeights | None) -> Tokens:
        """Tokens of a (H, W) map -> after the block; next_norm is the first LayerNorm of the next block, if any."""
        dtype = self.precision.dtype
        residual, _, normed = tokens
        if normed is None:
            residual, normed = add_layer_norm(residual, tokens.branch, self.norm1, dtype)
        attended = window_attention(
            self.qkv(normed),
            self.qkv.bias,
            self.position_bias,
            size,
            self.window,
            self.shift,
            dot=self.precision.dot,
        )
        if self.mlp is not None:
            residual, normed = swin_mlp(residual, self.proj(attended), self.norm2, self.mlp, next_norm)
            return Tokens(residual, None, normed)
        residual, normed = add_layer_norm(residual, self.proj(attended), self.norm2, dtype)
        return Tokens(residual, self.fc2(gelu_(self.fc1(normed))), None)


class AcceleratedSwin:
    """`SwinTransformer.forward` with channels last and in one precision.

    Weights are prepared at construction and must not change as long as this is used.

    Args:
        body: in evaluation mode, on the device of the images.
        precision: of activations; the residual stream is float32.
        num_maps: how many of the maps are needed, counted from the coarsest; None needs all.
    Raises: ValueError if `supports` names a reason.
    """

    @torch.no_grad()
    def __init__(self, body: SwinTransformer, precision: Precision, *, num_maps: int | None = None):
        if reason := supports(body):
            raise ValueError(f"no accelerated Swin: {reason}")
        self.precision = precision
        embed = body.patch_embed
        self.patch_size = embed.patch_size
        self.embed_weight = precision.operand(embed.proj.weight.flatten(1).t()).contiguous()
        self.embed_bias = embed.proj.bias.detach().float()
        self.embed_norm = LayerNormWeights.of(embed.norm)
        self.position: Tensor | None = body.absolute_pos_embed
        self.stages = [[_Block(block, precision) for block in stage.blocks] for stage in body.layers]
        self.merges = [self._prepare_merge(stage.downsample) for stage in body.layers]
        self.out_stages = body.out_stages[-num_maps:] if num_maps else body.out_stages
        self.last_stage = self.out_stages[-1]
        self.out_norms = {i: self._prepare_out_norm(body, i) for i in self.out_stages}

    def _prepare_merge(self, merging: PatchMerging | None) -> tuple[LayerNormWeights, LinearWeights] | None:
        if merging is None:
            return None
        return LayerNormWeights.of(merging.norm), LinearWeights.of(merging.reduction, self.precision)

    @staticmethod
    def _prepare_out_norm(body: SwinTransformer, stage: int) -> LayerNormWeights | None:
        norm = getattr(body, f"norm{stage}") if body.out_norm else nn.Identity()
        return None if isinstance(norm, nn.Identity) else LayerNormWeights.of(norm)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W), normalised -> maps (B, H_l, W_l, C_l), contiguous, finest first."""
        size = (-(-images.shape[2] // self.patch_size), -(-images.shape[3] // self.patch_size))
        tokens = Tokens(self._embed(images, size), None, None)
        outputs = []
        for i, (blocks, merge) in enumerate(zip(self.stages, self.merges, strict=True)):
            next_norms = [block.norm1 for block in blocks[1:]] + [None]
            for block, next_norm in zip(blocks, next_norms, strict=True):
                tokens = block(tokens, size, next_norm)
            if i in self.out_stages:
                outputs.append(self._output(i, tokens).unflatten(0, (images.shape[0], *size)))
            if i == self.last_stage:
                break
            if merge is not None:
                norm, reduction = merge
                joined = merge_layer_norm(tokens.residual, tokens.branch, norm, self.precision.dtype, size)
                tokens = Tokens(None, reduction(joined), None)
                size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
        return outputs

    def _embed(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Images -> tokens (B * H * W, C) float32 of the first stage."""
        tokens = patch_embedding(
            images, self.embed_weight, self.embed_bias, self.embed_norm, self.patch_size, dot=self.precision.dot
        )
        if self.position is None:
            return tokens
        position = F.interpolate(self.position.float(), size=size, mode="bicubic").flatten(2).transpose(1, 2)
        return (tokens.unflatten(0, (images.shape[0], -1)) + position).flatten(0, 1)

    def _output(self, stage: int, tokens: Tokens) -> Tensor:
        residual, branch, _ = tokens
        norm = self.out_norms[stage]
        if norm is not None:
            return add_layer_norm(residual, branch, norm, self.precision.dtype, needs_total=False)[1]
        total = residual if branch is None else residual + branch
        return total.to(self.precision.dtype)
