"""Transformer layers that update the text between two fusions."""

from torch import Tensor, nn

from maskrcnn_benchmark.modeling.language_backbone.clip import ResidualAttentionBlock

from .bi_attention import CLAMP_LIMIT, clamp_logits, words_softmax
from .state import TowerState


def clamp_activations(x: Tensor) -> Tensor:
    """Limits activations to +-50000, so that fp16 does not overflow."""
    return x.clamp(-CLAMP_LIMIT, CLAMP_LIMIT)


class BertSelfAttention(nn.Module):
    """Multi-head self-attention over the words, with optional limits on the logits."""

    def __init__(self, dim: int, num_heads: int, dropout: float, *, clamp_min: bool, clamp_max: bool):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide dim={dim}")
        self.num_heads, self.clamp_min, self.clamp_max = num_heads, clamp_min, clamp_max
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def _heads(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, M, T, D / M)
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = self._heads(self.query(x)), self._heads(self.key(x)), self._heads(self.value(x))
        logits = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        logits = clamp_logits(logits, clamp_min=self.clamp_min, clamp_max=self.clamp_max)
        weights = self.dropout(words_softmax(logits, mask[:, None, None]))
        return (weights @ value).transpose(1, 2).flatten(2)


class BertSelfOutput(nn.Module):
    """Linear, dropout, residual, LayerNorm."""

    def __init__(self, dim: int, dropout: float, eps: float):
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class BertAttention(nn.Module):
    """Self-attention and its output, under the names of the published checkpoints."""

    def __init__(self, dim: int, num_heads: int, dropout: float, eps: float, **limits: bool):
        super().__init__()
        self.self = BertSelfAttention(dim, num_heads, dropout, **limits)
        self.output = BertSelfOutput(dim, dropout, eps)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.output(self.self(x, mask), x)


class BertIntermediate(nn.Module):
    """Linear and GELU, both limited."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.dense = nn.Linear(dim, hidden_dim)
        self.intermediate_act_fn = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return clamp_activations(self.intermediate_act_fn(clamp_activations(self.dense(x))))


class BertOutput(nn.Module):
    """Linear, limit, residual, LayerNorm, limit."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float, eps: float):
        super().__init__()
        self.dense = nn.Linear(hidden_dim, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        x = clamp_activations(self.dropout(self.dense(x)))
        return clamp_activations(self.LayerNorm(x + residual))


class BertEncoderLayer(nn.Module):
    """A post-norm BERT layer on the text of the tower; it is not initialised from BERT.

    Args: dim, num_heads, hidden_dim: widths and heads; dropout: everywhere; eps: of the LayerNorms;
        clamp_min, clamp_max: limit the attention logits to -50000 and 50000.
    """

    def __init__(
        self,
        dim: int = 768,
        num_heads: int = 12,
        hidden_dim: int = 3072,
        *,
        dropout: float = 0.1,
        eps: float = 1e-12,
        clamp_min: bool = False,
        clamp_max: bool = False,
    ):
        super().__init__()
        self.attention = BertAttention(dim, num_heads, dropout, eps, clamp_min=clamp_min, clamp_max=clamp_max)
        self.intermediate = BertIntermediate(dim, hidden_dim)
        self.output = BertOutput(dim, hidden_dim, dropout, eps)

    @classmethod
    def from_config(cls, cfg, text_config) -> "BertEncoderLayer":
        """text_config: the transformers configuration of the text encoder."""
        fuse = cfg.MODEL.DYHEAD.FUSE_CONFIG
        return cls(
            text_config.hidden_size,
            text_config.num_attention_heads,
            text_config.intermediate_size,
            dropout=text_config.hidden_dropout_prob,
            eps=text_config.layer_norm_eps,
            clamp_min=fuse.CLAMP_BERTATTN_MIN_FOR_UNDERFLOW,
            clamp_max=fuse.CLAMP_BERTATTN_MAX_FOR_OVERFLOW,
        )

    def forward(self, state: TowerState) -> TowerState:
        x = self.attention(state.hidden, state.masks)
        return state._replace(hidden=self.output(self.intermediate(x), x))


class CLIPTransformerLayer(ResidualAttentionBlock):
    """A CLIP block on the text of the tower, bidirectional."""

    def __init__(self, width: int, heads: int, drop_path: float = 0.0):
        super().__init__(width, heads, drop_path)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, state: TowerState) -> TowerState:
        return state._replace(hidden=super().forward(state.hidden, state.masks == 0))


class DummyLayer(nn.Module):
    """Leaves the text as it is."""

    def forward(self, state: TowerState) -> TowerState:
        return state
