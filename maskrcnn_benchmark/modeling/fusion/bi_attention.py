"""Deep fusion: attention both ways between image locations and words (GLIP, arXiv:2112.03857, section 3.2).

One similarity matrix S serves both directions. The text is short (T words against N locations), so every product is
associated around it: S = v (Wq^T k)^T, image update = P_v (V_l Wo), text update = (P_l^T v) Wv. That is the algebra
of ordinary multi-head attention with less than half of its operations and without a tensor of N x embed_dim.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn_benchmark.ops.kernels.folded_words import Limits
from maskrcnn_benchmark.ops.kernels.two_way_attention import serves_two_way_attention, two_way_attention

from .levels import flatten_levels, split_levels
from .resizer import FeatureResizer
from .state import TowerState

CLAMP_LIMIT = 50000.0  # fp16 ends at 65504


def clamp_logits(logits: Tensor, *, clamp_min: bool, clamp_max: bool) -> Tensor:
    """Limits attention logits to +-50000 on the chosen sides, in place where no gradient is needed."""
    if not (clamp_min or clamp_max):
        return logits
    limits = (-CLAMP_LIMIT if clamp_min else None, CLAMP_LIMIT if clamp_max else None)
    return logits.clamp(*limits) if logits.requires_grad else logits.clamp_(*limits)


def words_softmax(logits: Tensor, text_mask: Tensor | None, dim: int = -1) -> Tensor:
    """Softmax over the words; text_mask is broadcastable to logits, 0 = padding. A row without words is uniform."""
    if text_mask is not None:
        logits = logits.masked_fill(text_mask == 0, torch.finfo(logits.dtype).min)
    return logits.softmax(dim)


def _has_no_padding(text_mask: Tensor) -> bool:
    """Whether masking can be left out; on a GPU, where looking would mean to wait, never."""
    return text_mask.device.type == "cpu" and not torch.compiler.is_compiling() and bool(text_mask.all())


class BiMultiHeadAttention(nn.Module):
    """Lets every location attend to the words and every word to the locations, sharing one similarity matrix.

    Args:
        v_dim, l_dim: channels of the visual and the text features.
        embed_dim, num_heads: inner width of all heads together, and their number.
        dropout: probability on both attention maps.
        stable_softmax_2d: subtract the maximum of the whole similarity matrix.
        clamp_min, clamp_max: limit the similarities to -50000 and 50000.
    Raises: ValueError if num_heads does not divide embed_dim.
    """

    def __init__(
        self,
        v_dim: int,
        l_dim: int,
        embed_dim: int,
        num_heads: int,
        *,
        dropout: float = 0.1,
        stable_softmax_2d: bool = False,
        clamp_min: bool = False,
        clamp_max: bool = False,
    ):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide embed_dim={embed_dim}")
        self.num_heads, self.head_dim, self.dropout = num_heads, embed_dim // num_heads, dropout
        self.stable_softmax_2d, self.clamp_min, self.clamp_max = stable_softmax_2d, clamp_min, clamp_max
        self.v_proj = nn.Linear(v_dim, embed_dim)
        self.l_proj = nn.Linear(l_dim, embed_dim)
        self.values_v_proj = nn.Linear(v_dim, embed_dim)
        self.values_l_proj = nn.Linear(l_dim, embed_dim)
        self.out_v_proj = nn.Linear(embed_dim, v_dim)
        self.out_l_proj = nn.Linear(embed_dim, l_dim)
        for module in self.children():
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)

    def _heads(self, x: Tensor) -> Tensor:  # (..., embed_dim) -> (..., M, embed_dim / M)
        return x.unflatten(-1, (self.num_heads, self.head_dim))

    def _similarity(self, visual: Tensor, text: Tensor) -> Tensor:
        """(B, N, v_dim), (B, T, l_dim) -> scaled similarities (B, N, M * T)."""
        keys = self._heads(self.l_proj(text)) * self.head_dim**-0.5  # (B, T, M, d)
        weight = self.v_proj.weight.view(self.num_heads, self.head_dim, -1)
        folded = torch.einsum("btmd,mdc->bcmt", keys, weight)  # queries of the locations, seen by the words
        offset = torch.einsum("btmd,md->bmt", keys, self._heads(self.v_proj.bias))
        return torch.baddbmm(offset.flatten(1)[:, None], visual, folded.flatten(2))

    def _limited(self, logits: Tensor) -> Tensor:
        """Similarities (B, N, M * T) -> (B, N, M, T) as the softmaxes take them."""
        logits = logits.unflatten(-1, (self.num_heads, -1))
        if self.stable_softmax_2d:
            logits = logits - logits.max()
        return clamp_logits(logits, clamp_min=self.clamp_min, clamp_max=self.clamp_max)

    def _over_words(self, logits: Tensor, text_mask: Tensor | None) -> Tensor:
        """Similarities (B, N, M, T) -> weights of the words (B, N, M * T)."""
        mask = None if text_mask is None or _has_no_padding(text_mask) else text_mask[:, None, None]
        return F.dropout(words_softmax(logits, mask), self.dropout, self.training).flatten(2)

    def _pooled(self, logits: Tensor, visual: Tensor) -> tuple[Tensor, Tensor | None]:
        """Locations averaged for every head and word (B, M * T, v_dim), and the sums of their weights (B, M * T).

        The sums are None where they are 1. Without gradients the similarities are overwritten.
        """
        if logits.requires_grad or logits.is_cuda or self.training:
            # Transposed first: a softmax over a strided dimension is several times slower on a GPU.
            weights = logits.flatten(2).transpose(1, 2).softmax(-1)  # (B, M T, N)
            weights = F.dropout(weights, self.dropout, self.training)
            is_dropped = self.training and self.dropout > 0  # only then do the weights not sum to one
            return weights @ visual, weights.sum(-1) if is_dropped else None
        exponentials = logits.sub_(logits.amax(1, keepdim=True)).exp_()
        pooled = exponentials.flatten(2).transpose(1, 2) @ visual
        return pooled / exponentials.sum(1).flatten(1)[..., None], None

    def _image_update(self, weights: Tensor, text: Tensor) -> Tensor:
        """Weights of the words (B, N, M * T), text (B, T, l_dim) -> (B, N, v_dim)."""
        values = self._heads(self.values_l_proj(text))  # (B, T, M, d)
        out_weight = self.out_v_proj.weight.view(-1, self.num_heads, self.head_dim)
        folded = torch.einsum("btmd,cmd->bmtc", values, out_weight)
        return torch.baddbmm(self.out_v_proj.bias[None, None], weights, folded.flatten(1, 2))

    def _text_update(self, pooled: Tensor, sums: Tensor | None) -> Tensor:
        """Averaged locations (B, M * T, v_dim) and the sums of their weights (B, M * T) -> (B, T, l_dim)."""
        value_weight = self.values_v_proj.weight.view(self.num_heads, self.head_dim, -1)
        bias = self._heads(self.values_v_proj.bias)[None, None]  # (1, 1, M, d)
        if sums is not None:
            bias = bias * sums.to(bias.dtype).unflatten(1, (self.num_heads, -1)).transpose(1, 2)[..., None]
        heads = torch.einsum("bmtc,mdc->btmd", pooled.unflatten(1, (self.num_heads, -1)), value_weight) + bias
        return self.out_l_proj(heads.flatten(2))

    def _is_fused(self, logits: Tensor) -> bool:
        """Whether one kernel computes both softmaxes: in training on a GPU, also of a part that is frozen."""
        if self.stable_softmax_2d or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return False
        return serves_two_way_attention(logits, self.num_heads, self.dropout)

    def forward(self, visual: Tensor, text: Tensor, text_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """visual (B, N, v_dim), text (B, T, l_dim), text_mask (B, T), 1 = word -> updates of both, of their shapes."""
        logits = self._similarity(visual, text)
        if self._is_fused(logits):
            limits = Limits(self.clamp_min, self.clamp_max)
            dropout = self.dropout if self.training else 0.0
            locations = visual.to(logits.dtype)
            both = two_way_attention(logits, locations, text_mask, self.num_heads, limits, dropout=dropout)
            return self._image_update(both.over_words, text), self._text_update(both.pooled, both.sums)
        logits = self._limited(logits)
        image_update = self._image_update(self._over_words(logits, text_mask), text)
        return image_update, self._text_update(*self._pooled(logits, visual))


class BiAttentionBlockForCheckpoint(nn.Module):
    """Bidirectional fusion block of the tower ("MHA-B").

    The residual is taken on the layer-normed streams, not on the inputs: published weights depend on it.

    Args:
        v_dim, l_dim, embed_dim, num_heads, dropout: as `BiMultiHeadAttention`.
        init_value: initial value of the vectors that scale both updates.
        separate: attend level by level, each from the same text, and merge the texts by a linear layer.
        merge_outside: leave that merge to the caller (`VLFuse.shrink_lang`), which gets the texts concatenated.
    """

    num_levels = 5

    def __init__(
        self,
        v_dim: int,
        l_dim: int,
        embed_dim: int,
        num_heads: int,
        *,
        init_value: float,
        dropout: float = 0.1,
        separate: bool = False,
        merge_outside: bool = False,
        **attention,
    ):
        super().__init__()
        self.layer_norm_v = nn.LayerNorm(v_dim)
        self.layer_norm_l = nn.LayerNorm(l_dim)
        self.attn = BiMultiHeadAttention(v_dim, l_dim, embed_dim, num_heads, dropout=dropout, **attention)
        self.drop_path = nn.Identity()
        self.gamma_v = nn.Parameter(torch.full((v_dim,), init_value))
        self.gamma_l = nn.Parameter(torch.full((l_dim,), init_value))
        self.separate = separate
        self.shrink_lang = FeatureResizer(self.num_levels * l_dim, l_dim) if separate and not merge_outside else None

    def attend(self, visual: Tensor, text: Tensor, text_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """visual (B, N, v_dim), text (B, T, l_dim) -> both streams normalised and updated."""
        visual, text = self.layer_norm_v(visual), self.layer_norm_l(text)
        visual_update, text_update = self.attn(visual, text, text_mask)
        visual = visual + self.drop_path(self.gamma_v * visual_update)
        return visual, text + self.drop_path(self.gamma_l * text_update)

    def forward(self, state: TowerState) -> TowerState:
        levels = state.visual
        if not self.separate:
            visual, text = self.attend(flatten_levels(levels), state.hidden, state.masks)
            return state._replace(visual=split_levels(visual, levels), hidden=text)
        outputs = [self.attend(flatten_levels([level]), state.hidden, state.masks) for level in levels]
        text = torch.cat([text for _, text in outputs], -1)
        if self.shrink_lang is not None:
            text = self.shrink_lang(text)
        visual = [split_levels(out, [level])[0] for (out, _), level in zip(outputs, levels, strict=True)]
        return state._replace(visual=visual, hidden=text)
