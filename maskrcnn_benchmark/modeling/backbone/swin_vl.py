"""Swin bodies whose last stage also reads and updates the text (the "vl" and "v2_vl" versions)."""

from collections.abc import Callable

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from .swin import Mlp, SwinTransformer, SwinTransformerBlock, WindowAttention


class WindowTextAttention(WindowAttention):
    """Window attention whose queries also see the words, and words that see the whole image and each other.

    Args:
        text_dim: channels of the text; num_tokens: its fixed length T.
    """

    def __init__(self, dim: int, window: int, num_heads: int, text_dim: int, num_tokens: int):
        super().__init__(dim, window, num_heads)
        self.num_tokens = num_tokens
        self.qkv_text = nn.Linear(text_dim, 3 * dim)
        self.proj_text = nn.Linear(dim, text_dim)
        self.i2t_relative_position_bias = nn.Parameter(trunc_normal_(torch.zeros(2, num_heads, num_tokens), std=0.02))
        self.t2t_relative_position_bias = nn.Parameter(
            trunc_normal_(torch.zeros(num_heads, num_tokens, num_tokens), std=0.02)
        )

    def forward_both(
        self, x: Tensor, text: Tensor, mask: Tensor | None, text_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """x (B * windows, N, C), text (B, T, D), mask (windows, N, N), text_mask (B, T) additive -> the same shapes."""
        batch, tokens = text.shape[:2]
        if tokens != self.num_tokens:
            raise ValueError(f"this body was built for {self.num_tokens} text tokens, got {tokens}; set PAD_MAX True")
        windows, n, channels = x.shape[0] // batch, x.shape[1], x.shape[2]
        query, key, value = self.split_heads(x)  # (B * windows, M, N, d)
        text_qkv = self.qkv_text(text).view(batch, tokens, 3, self.num_heads, channels // self.num_heads)
        text_query, text_key, text_value = text_qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, M, T, d)
        scale = query.shape[-1] ** -0.5

        def per_window(t: Tensor) -> Tensor:  # (B, M, T, d) -> (B * windows, M, T, d)
            return t[:, None].expand(-1, windows, -1, -1, -1).flatten(0, 1)

        to_image = query @ key.transpose(-2, -1) * scale + self.relative_position_bias()
        if mask is not None:
            to_image = (to_image.unflatten(0, (batch, windows)) + mask[:, None]).flatten(0, 1)
        to_text = query @ per_window(text_key.transpose(-2, -1)) * scale + self.i2t_relative_position_bias[0][:, None]
        if text_mask is not None:
            to_text = (to_text.unflatten(0, (batch, windows)) + text_mask[:, None, None, None]).flatten(0, 1)
        weights = torch.cat([to_image, to_text], -1).softmax(-1)
        out = weights[..., :n] @ value + weights[..., n:] @ per_window(text_value)

        def whole_image(t: Tensor) -> Tensor:  # (B * windows, M, N, d) -> (B, M, windows * N, d)
            return t.unflatten(0, (batch, windows)).transpose(1, 2).flatten(2, 3)

        over_image = text_query @ whole_image(key).transpose(-2, -1) * scale
        over_image = over_image + self.i2t_relative_position_bias[1][:, :, None]
        over_text = text_query @ text_key.transpose(-2, -1) * scale + self.t2t_relative_position_bias
        if text_mask is not None:
            over_text = over_text + text_mask[:, None, None]
        weights = torch.cat([over_image, over_text], -1).softmax(-1)
        split = over_image.shape[-1]
        text_out = weights[..., :split] @ whole_image(value) + weights[..., split:] @ text_value
        return self.proj(out.transpose(1, 2).flatten(2)), self.proj_text(text_out.transpose(1, 2).flatten(2))


class SwinTextBlock(SwinTransformerBlock):
    """A Swin block with a second, text stream."""

    def __init__(self, dim: int, num_heads: int, window: int, *, text_dim: int, num_tokens: int, **kwargs):
        self._text_sizes = (text_dim, num_tokens)
        super().__init__(dim, num_heads, window, **kwargs)
        self.norm1_text = nn.LayerNorm(text_dim)
        self.norm2_text = nn.LayerNorm(text_dim)
        self.mlp_text = Mlp(text_dim, int(text_dim * kwargs.get("mlp_ratio", 4.0)))
        layer_scale = kwargs.get("layer_scale")
        self.gamma_text = None if layer_scale is None else nn.Parameter(torch.full((text_dim,), layer_scale))

    def build_attention(self, dim: int, window: int, num_heads: int) -> nn.Module:
        return WindowTextAttention(dim, window, num_heads, *self._text_sizes)

    def forward_both(
        self, x: Tensor, size: tuple[int, int], shift_mask: Tensor | None, text: Tensor, text_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        windows, padded = self.to_windows(self.norm1(x), size)
        mask = shift_mask if self.shift else None
        windows, text_update = self.attn.forward_both(windows, self.norm1_text(text), mask, text_mask)
        x = self.residual(x, self.from_windows(windows, size, padded), self.gamma)
        x = self.residual(x, self.mlp(self.norm2(x)), self.gamma)
        text = self.residual(text, text_update, self.gamma_text)
        text = self.residual(text, self.mlp_text(self.norm2_text(text)), self.gamma_text)
        return x, text


class SwinTextTransformer(SwinTransformer):
    """Swin whose last stage exchanges information with the text.

    Args: text_dim, num_tokens: channels and fixed length of the text; the rest as `SwinTransformer`.
    """

    def __init__(self, *, text_dim: int, num_tokens: int, **kwargs):
        self._text_sizes = {"text_dim": text_dim, "num_tokens": num_tokens}
        super().__init__(**kwargs)

    def build_block(self, stage: int, num_stages: int) -> Callable[..., SwinTransformerBlock]:
        if stage < num_stages - 1:
            return SwinTransformerBlock
        return lambda *args, **kwargs: SwinTextBlock(*args, **self._text_sizes, **kwargs)

    def forward(self, images: Tensor, text: Tensor, text_mask: Tensor | None) -> tuple[list[Tensor], Tensor]:
        """images (B, 3, H, W), text (B, T, D), text_mask (B, T), 1 = word -> list of maps, text (B, T, D)."""
        additive = None
        if text_mask is not None:
            additive = torch.zeros_like(text_mask, dtype=text.dtype).masked_fill(text_mask == 0, float("-inf"))
        x, size = self.embed(images)
        outputs = []
        for i, stage in enumerate(self.layers):
            if stage.downsample is not None:
                x = stage(x, size)
            else:
                shift_mask = stage.shift_mask(size, x.device)
                for block in stage.blocks:
                    x, text = stage.run(block.forward_both, x, size, shift_mask, text, additive)
            if i in self.out_stages:
                outputs.append(self.output(i, x, size))
            if stage.downsample is not None:
                x = stage.downsample(x, size)
                size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
        return outputs, text
