"""The text transformer of CLIP (arXiv:2103.00020), bidirectional, as text encoder."""

import logging
from collections import OrderedDict

import torch
import torch.nn.functional as F
from timm.layers import DropPath, trunc_normal_
from torch import Tensor, nn

from .features import TextFeatures

logger = logging.getLogger(__name__)


class LayerNorm(nn.LayerNorm):
    """LayerNorm with eps 1e-12, computed in fp32 where inputs or parameters have a shorter format."""

    def __init__(self, dim: int):
        super().__init__(dim, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(wide), self.bias.to(wide)
        return F.layer_norm(x.to(wide), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ResidualAttentionBlock(nn.Module):
    """Pre-norm self-attention without a causal mask, and an MLP, on (B, T, width)."""

    def __init__(self, width: int, heads: int, drop_path: float = 0.0):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1 = LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, 4 * width), gelu=QuickGELU(), c_proj=nn.Linear(4 * width, width))
        )
        self.ln_2 = LayerNorm(width)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """x (B, T, width), padding (B, T) True on padding -> (B, T, width); rows of padding only see it."""
        if padding is not None:
            padding = padding & ~padding.all(-1, keepdim=True)  # a softmax over nothing would be NaN
        y = self.ln_1(x)
        x = x + self.drop_path(self.attn(y, y, y, need_weights=False, key_padding_mask=padding)[0])
        return x + self.drop_path(self.mlp(self.ln_2(x)))


class CLIPTransformer(nn.Module):
    """Token and position embeddings and `layers` residual attention blocks; the length must be context_length."""

    def __init__(
        self,
        *,
        vocab_size: int = 49408,
        context_length: int = 256,
        width: int = 512,
        layers: int = 12,
        heads: int = 8,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.context_length = context_length
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        rates = torch.linspace(0, drop_path, layers, device="cpu").tolist()
        self.resblocks = nn.ModuleList(ResidualAttentionBlock(width, heads, rate) for rate in rates)
        self.ln_final = LayerNorm(width)
        trunc_normal_(self.positional_embedding, std=0.02)
        trunc_normal_(self.token_embedding.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    @classmethod
    def from_config(cls, cfg) -> "CLIPTransformer":
        clip = cfg.MODEL.CLIP
        model = cls(
            vocab_size=clip.VOCAB_SIZE,
            context_length=clip.CONTEXT_LENGTH,
            width=clip.WIDTH,
            layers=clip.LAYERS,
            heads=clip.HEADS,
            drop_path=clip.DROP_PATH,
        )
        if cfg.MODEL.LANGUAGE_BACKBONE.WEIGHT:
            model.load_pretrained(cfg.MODEL.LANGUAGE_BACKBONE.WEIGHT)
        return model

    def load_pretrained(self, path: str) -> None:
        """Loads the `text.*` entries of a flat state dict; position embeddings are resized linearly to the context."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        own = self.state_dict()
        state = {key.removeprefix("text."): value for key, value in state.items() if key.startswith("text.")}
        state = {key: value for key, value in state.items() if key in own}
        position = state.get("positional_embedding")
        if position is not None and position.shape[0] != self.context_length:
            grid = F.interpolate(position.T[None], size=self.context_length, mode="linear", align_corners=False)
            state["positional_embedding"] = grid[0].T
        self.load_state_dict({**own, **state}, strict=True)
        logger.info("Loaded %d of %d entries of the CLIP text encoder from %s", len(state), len(own), path)

    def forward(self, tokens: dict[str, Tensor]) -> TextFeatures:
        """tokens: input_ids and attention_mask, both (B, context_length)."""
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        if ids.shape[1] != self.context_length:
            raise ValueError(f"the CLIP text encoder takes {self.context_length} tokens, got {ids.shape[1]}")
        x = self.token_embedding(ids) + self.positional_embedding
        padding = mask == 0
        for block in self.resblocks:
            x = block(x, padding)
        x = self.ln_final(x)
        return TextFeatures(aggregate=x, embedded=x, masks=mask, hidden=x)
