"""One-way fusion: every location attends to the words ("MHA-S")."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bi_attention import clamp_logits, words_softmax
from .levels import flatten_levels, split_levels
from .state import TowerState


class MultiHeadAttention(nn.Module):
    """Multi-head attention from q_dim to k_dim features with xavier weights and zero biases.

    Args: q_dim, k_dim: input widths; embed_dim, num_heads: inner width of all heads, and their number;
        dropout: probability on the attention map; clamp_min, clamp_max: limit the logits to -50000 and 50000.
    """

    def __init__(
        self,
        q_dim: int,
        k_dim: int,
        embed_dim: int,
        num_heads: int,
        *,
        dropout: float = 0.1,
        clamp_min=False,
        clamp_max=False,
    ):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide embed_dim={embed_dim}")
        self.num_heads, self.dropout = num_heads, dropout
        self.clamp_min, self.clamp_max = clamp_min, clamp_max
        self.q_proj = nn.Linear(q_dim, embed_dim)
        self.k_proj = nn.Linear(k_dim, embed_dim)
        self.v_proj = nn.Linear(k_dim, embed_dim)
        self.out_proj = nn.Linear(embed_dim, q_dim)
        for module in self.children():
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)

    def _heads(self, x: Tensor) -> Tensor:  # (B, N, embed_dim) -> (B, M, N, embed_dim / M)
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, text_mask: Tensor | None) -> Tensor:
        """query (B, N, q_dim), key and value (B, T, k_dim), text_mask (B, T), 1 = word -> (B, N, q_dim)."""
        q, k, v = self._heads(self.q_proj(query)), self._heads(self.k_proj(key)), self._heads(self.v_proj(value))
        logits = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
        logits = clamp_logits(logits, clamp_min=self.clamp_min, clamp_max=self.clamp_max)
        weights = words_softmax(logits, None if text_mask is None else text_mask[:, None, None])
        out = F.dropout(weights, self.dropout, self.training) @ v
        return self.out_proj(out.transpose(1, 2).flatten(2))


class AttentionT2I(nn.Module):
    """Text-to-image fusion, level by level.

    As in the original the text is normalised again for every level, so level i sees it normalised i + 1 times.

    Args: q_dim, k_dim, embed_dim, num_heads: as `MultiHeadAttention`; init_value: of the scale of the update, None
        leaves the scale out.
    """

    def __init__(
        self,
        q_dim: int,
        k_dim: int,
        embed_dim: int,
        num_heads: int,
        *,
        init_value: float | None,
        dropout: float = 0.1,
        **attention,
    ):
        super().__init__()
        self.layer_norm_q_1 = nn.LayerNorm(q_dim)
        self.layer_norm_k_1 = nn.LayerNorm(k_dim)
        self.attn = MultiHeadAttention(q_dim, k_dim, embed_dim, num_heads, dropout=dropout, **attention)
        self.gamma = None if init_value is None else nn.Parameter(torch.full((q_dim,), init_value))

    def forward(self, state: TowerState) -> TowerState:
        text, visual = state.hidden, []
        for level in state.visual:
            text = self.layer_norm_k_1(text)
            query = self.layer_norm_q_1(flatten_levels([level]))
            update = self.attn(query, text, text, state.masks)
            query = query + (update if self.gamma is None else self.gamma * update)
            visual += split_levels(query, [level])
        return state._replace(visual=visual)
