"""BERT layers, alone in the tower or stacked in the text encoder, with weights prepared for one precision."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn_benchmark.modeling.fusion.bi_attention import CLAMP_LIMIT
from maskrcnn_benchmark.modeling.fusion.text_layer import BertEncoderLayer
from maskrcnn_benchmark.modeling.language_backbone.features import TextFeatures
from maskrcnn_benchmark.modeling.language_backbone.huggingface import BertEncoder
from maskrcnn_benchmark.ops.kernels.folded_words import Limits
from maskrcnn_benchmark.ops.kernels.swin_norm import LayerNormWeights
from maskrcnn_benchmark.ops.kernels.word_attention import word_attention
from maskrcnn_benchmark.ops.kernels.word_norm import post_layer_norm

from .precision import Precision


def full_product(rows: Tensor, weight: Tensor, addend: Tensor | None = None) -> Tensor:
    """rows (R, K) @ weight (K, D) + addend (R, D) as float32, which is not rounded on the way."""
    if rows.dtype == torch.float32:
        return rows @ weight if addend is None else torch.addmm(addend, rows, weight)
    if rows.is_cuda:
        if addend is None:
            return torch.mm(rows, weight, out_dtype=torch.float32)
        return torch.addmm(addend, rows, weight, out_dtype=torch.float32)
    product = rows.float() @ weight.float()
    return product if addend is None else product + addend


class LinearWeights(NamedTuple):
    """Weight (K, D) of a product x @ weight, and bias (D,)."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, layers: Sequence[nn.Linear], precision: Precision, bias_dtype: torch.dtype) -> "LinearWeights":
        """The weights of layers of one input, their outputs side by side."""
        weight = precision.operand(torch.cat([layer.weight for layer in layers]).t()).contiguous()
        return cls(weight, torch.cat([layer.bias.detach() for layer in layers]).to(bias_dtype))


class PostNormLayer:
    """A BERT layer: self-attention and two linear layers with GELU, each followed by residual sum and LayerNorm.

    Args:
        layer: has the parts `attention`, `intermediate` and `output` under the names of BERT.
        num_heads: of the attention; limits: of its logits.
        is_limited: keep activations inside -50000 and 50000, as the layers of the tower do.
    """

    def __init__(self, layer: nn.Module, num_heads: int, precision: Precision, *, limits: Limits, is_limited: bool):
        attention, output, dtype = layer.attention, layer.output, precision.dtype
        own = attention.self
        self.precision, self.num_heads, self.limits, self.is_limited = precision, num_heads, limits, is_limited
        self.qkv = LinearWeights.of((own.query, own.key, own.value), precision, dtype)
        self.attention_output = LinearWeights.of((attention.output.dense,), precision, torch.float32)
        self.attention_norm = LayerNormWeights.of(attention.output.LayerNorm)
        self.hidden = LinearWeights.of((layer.intermediate.dense,), precision, dtype)
        self.output = LinearWeights.of((output.dense,), precision, torch.float32)
        self.output_norm = LayerNormWeights.of(output.LayerNorm)

    def __call__(self, residual: Tensor, operand: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Text (B T, D) in float32 and in the precision's type, text_mask (B, T) -> both after the layer."""
        dtype = self.precision.dtype
        qkv = torch.addmm(self.qkv.bias, operand, self.qkv.weight).view(*text_mask.shape, -1)
        attended = word_attention(qkv, text_mask, self.num_heads, self.limits, dot=self.precision.dot).flatten(0, 1)
        update = full_product(attended, self.attention_output.weight)
        bias = self.attention_output.bias
        residual, operand = post_layer_norm(update, bias, residual, self.attention_norm, dtype)
        hidden = torch.addmm(self.hidden.bias, operand, self.hidden.weight)
        if self.is_limited:  # GELU raises no number, so that its results need no limits of their own
            hidden = hidden.clamp_(-CLAMP_LIMIT, CLAMP_LIMIT)
        update = full_product(F.gelu(hidden), self.output.weight)
        return post_layer_norm(
            update, self.output.bias, residual, self.output_norm, dtype,
            limit_update=self.is_limited, limit_result=self.is_limited,
        )  # fmt: skip


class AcceleratedTextLayer:
    """The text layer of the tower, with weights prepared for one precision."""

    def __init__(self, layer: BertEncoderLayer, precision: Precision):
        own = layer.attention.self
        limits = Limits(own.clamp_min, own.clamp_max)
        self.layer = PostNormLayer(layer, own.num_heads, precision, limits=limits, is_limited=True)

    def __call__(self, text: Tensor, text_mask: Tensor) -> Tensor:
        """text (B, T, D) float32, text_mask (B, T), 1 = word -> (B, T, D) float32."""
        rows = text.reshape(-1, text.shape[-1])
        residual, _ = self.layer(rows, rows.to(self.layer.precision.dtype), text_mask)
        return residual.view(text.shape)


def supports_text(encoder: nn.Module) -> str | None:
    """Why a text encoder cannot be accelerated, or None if it can."""
    if not isinstance(encoder, BertEncoder):
        return f"its text encoder is a {type(encoder).__name__}"
    config = encoder.model.config
    if config.model_type not in ("bert", "roberta"):
        return f"its text encoder is a {config.model_type}"
    if encoder.trim:
        return "its captions are cut to the longest one"
    if config.hidden_act != "gelu":
        return f"its text encoder uses {config.hidden_act!r} for GELU"
    return "its text encoder is a decoder" if config.is_decoder else None


class AcceleratedTextEncoder:
    """BERT or RoBERTa without pooler, with weights prepared for one precision.

    Args:
        encoder: one that `supports_text` accepts; its weights must not change as long as this is used.
        precision: of activations and products.
    """

    def __init__(self, encoder: BertEncoder, precision: Precision):
        self.precision, self.num_layers = precision, encoder.num_layers
        config, embeddings = encoder.model.config, encoder.model.embeddings
        self.padding_id = config.pad_token_id if config.model_type == "roberta" else None
        self.word_table = embeddings.word_embeddings.weight.detach().float()
        self.position_table = embeddings.position_embeddings.weight.detach().float()
        self.type_embedding = embeddings.token_type_embeddings.weight[0].detach().float()
        self.norm = LayerNormWeights.of(embeddings.LayerNorm)
        unlimited = Limits(False, False)
        self.layers = [
            PostNormLayer(layer, config.num_attention_heads, precision, limits=unlimited, is_limited=False)
            for layer in encoder.model.encoder.layer
        ]

    def __call__(self, tokens: dict[str, Tensor]) -> TextFeatures:
        """tokens: input_ids and attention_mask, both (B, T) on the device -> features of the same T, float32.

        Raises: ValueError if there are more tokens than positions.
        """
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        words = F.embedding(ids.flatten(), self.word_table)
        positions = self._positions(ids).flatten(0, -2)
        residual, operand = post_layer_norm(words, self.type_embedding, positions, self.norm, self.precision.dtype)
        states = [residual]
        for layer in self.layers:
            residual, operand = layer(residual, operand, mask)
            states.append(residual)
        hidden = residual.view(*ids.shape, -1)
        features = hidden
        if self.num_layers > 1:
            last = torch.stack(states[-self.num_layers :])
            features = (last.sum(0) / self.num_layers / self.num_layers).view_as(hidden)
        embedded = features * mask[..., None].to(features.dtype)
        aggregate = embedded.sum(1) / mask.sum(-1, keepdim=True).to(embedded.dtype)
        return TextFeatures(aggregate=aggregate, embedded=embedded, masks=mask, hidden=hidden)

    def _positions(self, ids: Tensor) -> Tensor:
        """Embedding of the position of every token, (B, T, D) float32, contiguous."""
        length = ids.shape[1] + (0 if self.padding_id is None else self.padding_id + 1)
        if length > len(self.position_table):
            raise ValueError(f"captions of {ids.shape[1]} tokens are too long for {len(self.position_table)} positions")
        if self.padding_id is None:
            return self.position_table[: ids.shape[1]].expand(len(ids), -1, -1).contiguous()
        is_token = (ids != self.padding_id).long()
        return F.embedding(is_token.cumsum(1) * is_token + self.padding_id, self.position_table)
