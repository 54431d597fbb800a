"""Deep fusion with weights of consecutive projections multiplied into one, for one precision."""

import torch
from torch import Tensor

from maskrcnn_benchmark.modeling.fusion.bi_attention import BiAttentionBlockForCheckpoint, BiMultiHeadAttention
from maskrcnn_benchmark.ops.kernels.folded_words import CLAMP_LIMIT, LOG2_E, FoldedWords, Limits
from maskrcnn_benchmark.ops.kernels.image_update import image_update
from maskrcnn_benchmark.ops.kernels.swin_norm import LayerNormWeights
from maskrcnn_benchmark.ops.kernels.text_update import pool_locations
from maskrcnn_benchmark.ops.kernels.word_norm import normalise_words

from .precision import Precision
from .text import AcceleratedTextLayer, full_product

__all__ = ["AcceleratedFusion", "AcceleratedTextLayer", "supports"]


def supports(block: BiAttentionBlockForCheckpoint) -> str | None:
    """Why a fusion block cannot be accelerated, or None if it can."""
    if not isinstance(block, BiAttentionBlockForCheckpoint):
        return f"its fusion is a {type(block).__name__}"
    if block.separate:
        return "its fusion treats the levels one by one"
    attention = block.attn
    if attention.stable_softmax_2d and (attention.clamp_min or attention.clamp_max):
        return "its fusion limits similarities from which the largest was subtracted"
    return None


class AcceleratedFusion:
    """Both directions of attention between locations and words.

    Args:
        block: one that `supports` accepts; its weights must not change as long as this is used.
        precision: of activations and products.
    Attributes:
        norm: LayerNorm of the locations, which whoever makes them has to apply.
    """

    def __init__(self, block: BiAttentionBlockForCheckpoint, precision: Precision):
        self.precision = precision
        self.norm = LayerNormWeights.of(block.layer_norm_v)
        self.text_norm = LayerNormWeights.of(block.layer_norm_l)
        attention = block.attn
        self.num_heads = attention.num_heads
        self.limits = Limits(attention.clamp_min, attention.clamp_max)
        fold = _Folding(attention)
        gamma_v, gamma_l = block.gamma_v.detach().double(), block.gamma_l.detach().double()
        keys, key_bias, offsets, offset_bias = fold.keys()
        values, value_bias = fold.values(gamma_v)
        self.words_weight = precision.operand(torch.cat((keys, values), 1))  # (D, 2 M C)
        self.words_bias = torch.cat((key_bias, value_bias)).to(precision.dtype)
        self.offset_parts = offsets.float(), offset_bias.float()  # (M, D), (M,)
        self.image_bias = (attention.out_v_proj.bias.detach().double() * gamma_v).float()
        pooled, text_bias = fold.pooled(gamma_l)
        self.pooled_weight, self.text_bias = precision.operand(pooled), text_bias.float()  # (M C, D), (D,)

    def __call__(self, visual: Tensor, text: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Locations and words -> both updated.

        Args:
            visual: (B, N, C) in the precision's type, already normalised with `norm`.
            text: (B, T, D) float32; text_mask: (B, T) integer or bool, 1 = word.
        Returns: visual (B, N, C) in the precision's type and text (B, T, D) float32. Words of padding, which nothing
            reads, are not updated by the locations.
        """
        batch, words, _ = text.shape
        visual, text = visual.contiguous(), text.contiguous()
        residual, operand, offsets = normalise_words(
            text, text_mask, self.text_norm, self.offset_parts, self.text_bias, self.precision.dtype
        )
        folded = torch.addmm(self.words_bias, operand.flatten(0, 1), self.words_weight)
        folded = folded.view(batch, words, 2, self.num_heads, visual.shape[-1])
        visual, pooled = self._attend(visual, FoldedWords(folded, offsets))
        text = full_product(pooled.flatten(0, 1), self.pooled_weight, residual.flatten(0, 1))
        return visual, text.view(batch, words, -1)

    def _attend(self, visual: Tensor, words: FoldedWords) -> tuple[Tensor, Tensor]:
        """Locations (B, N, C) and words -> locations updated, and pooled for the words (B, T, M C)."""
        if visual.dtype == torch.float32 and visual.is_cuda:
            if self.precision.dot == "ieee":
                return attend_exactly(visual, words, self.image_bias, self.limits)
            return self._attend_in_half(visual, words)
        pooled = pool_locations(visual, words, self.limits, dot=self.precision.dot)
        return image_update(visual, words, self.image_bias, self.limits, dot=self.precision.dot), pooled

    def _attend_in_half(self, visual: Tensor, words: FoldedWords) -> tuple[Tensor, Tensor]:
        """TensorFloat-32 with operands of fp16, whose mantissa is as long: kernels take those twice as fast.

        Locations are normalised and far from the limits of fp16; words beyond them are cut there.
        """
        largest = torch.finfo(torch.float16).max
        half = visual.half()
        words = FoldedWords(words.keys_and_values.clamp(-largest, largest).half(), words.offsets)
        pooled = pool_locations(half, words, self.limits, dtype=torch.float32)
        return image_update(half, words, self.image_bias, self.limits, residual=visual), pooled


def attend_exactly(visual: Tensor, words: FoldedWords, bias: Tensor, limits: Limits) -> tuple[Tensor, Tensor]:
    """`image_update` and `pool_locations` in float32, with library products and one matrix of similarities for both.

    Args: visual: (B, N, C); words, bias (C,), limits: as for `image_update`.
    Returns: the updated locations (B, N, C), and those pooled for the words (B, T, M C).
    """
    heads, num_words = words.offsets.shape[1], words.num_words
    updated, pooled = torch.empty_like(visual), visual.new_empty(len(visual), num_words, heads, visual.shape[-1])
    for image, locations in enumerate(visual):  # one at a time: the matrix takes 0.14 GB at 800x1344
        keys, values = words.keys_and_values[image].permute(1, 2, 0, 3).flatten(1, 2)  # (M T, C) each
        offsets = words.offsets[image, :, :num_words].flatten()
        is_word = offsets > -torch.inf
        is_read = is_word | ~is_word.any()  # a text without words is read as if its padding were some
        offsets = torch.where(is_word, offsets / LOG2_E, torch.where(is_read, 0.0, -torch.inf))
        scores = torch.addmm(offsets, locations, keys.t() / LOG2_E)  # (N, M T)
        if limits.clamp_min or limits.clamp_max:
            low = torch.where(is_read, -CLAMP_LIMIT if limits.clamp_min else -torch.inf, -torch.inf)
            high = torch.full_like(low, CLAMP_LIMIT if limits.clamp_max else torch.inf)
            torch.clamp(scores, low, high, out=scores)
        weights = scores.unflatten(1, (heads, -1)).softmax(-1).flatten(1)
        torch.addmm(locations + bias, weights, values, out=updated[image])
        shares = scores.t().contiguous().softmax(-1)  # over a strided dimension it would take many times as long
        rows = torch.where(is_word[:, None], shares @ locations, 0.0)
        pooled[image] = rows.unflatten(0, (heads, -1)).transpose(0, 1)
    return updated, pooled.flatten(2)


class _Folding:
    """Products of the projections of one attention, in float64."""

    def __init__(self, attention: BiMultiHeadAttention):
        self.attention, self.shape = attention, (attention.num_heads, attention.head_dim)
        self.scale = attention.head_dim**-0.5 * LOG2_E

    def _weight(self, name: str) -> Tensor:
        """(embed_dim, inputs) -> (M, d, inputs)."""
        return self.attention.get_submodule(name).weight.detach().double().unflatten(0, self.shape)

    def _bias(self, name: str) -> Tensor:
        """(embed_dim,) -> (M, d)."""
        return self.attention.get_submodule(name).bias.detach().double().unflatten(0, self.shape)

    def keys(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Words -> keys: weight (D, M C), bias (M C,); to offsets: weight (M, D), bias (M,); in units of log 2."""
        text, text_bias = self._weight("l_proj") * self.scale, self._bias("l_proj") * self.scale
        visual, visual_bias = self._weight("v_proj"), self._bias("v_proj")
        return (
            torch.einsum("hkt,hkc->thc", text, visual).flatten(1),
            torch.einsum("hk,hkc->hc", text_bias, visual).flatten(),
            torch.einsum("hkt,hk->ht", text, visual_bias),
            (text_bias * visual_bias).sum(1),
        )

    def values(self, gamma: Tensor) -> tuple[Tensor, Tensor]:
        """Words -> values: weight (D, M C) and bias (M C,), scaled by gamma (C,)."""
        output = self.attention.out_v_proj.weight.detach().double() * gamma[:, None]
        output = output.unflatten(1, self.shape)
        weight = torch.einsum("hkt,chk->thc", self._weight("values_l_proj"), output).flatten(1)
        return weight, torch.einsum("hk,chk->hc", self._bias("values_l_proj"), output).flatten()

    def pooled(self, gamma: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled locations -> words: weight (M C, D) and bias (D,), scaled by gamma (D,)."""
        output = self.attention.out_l_proj.weight.detach().double() * gamma[:, None]
        output = output.unflatten(1, self.shape)
        weight = torch.einsum("hkc,thk->hct", self._weight("values_v_proj"), output).flatten(0, 1)
        bias = torch.einsum("hk,thk->t", self._bias("values_v_proj"), output)
        return weight, bias + self.attention.out_l_proj.bias.detach().double() * gamma
