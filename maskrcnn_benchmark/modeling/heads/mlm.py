"""Predicts masked words from the fused text (masked language modelling, arXiv:1810.04805)."""

import torch
from torch import Tensor, nn


class PredictionTransform(nn.Module):
    """Linear, GELU, LayerNorm."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(nn.functional.gelu(self.dense(x)))


class BertLMPredictionHead(nn.Module):
    """(B, T, dim) -> (B, T, vocab_size) logits; `bias` and `decoder.bias` are one parameter."""

    def __init__(self, dim: int, vocab_size: int, eps: float = 1e-12):
        super().__init__()
        self.transform = PredictionTransform(dim, eps)
        self.decoder = nn.Linear(dim, vocab_size)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.decoder.bias = self.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform(x))
