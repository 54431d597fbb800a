"""Swin Transformer body (arXiv:2103.14030) in the two layouts of GLIP: "v1", and a convolutional variant called "v2".

"v2" is not the published Swin-V2: it replaces patch embedding and merging by overlapping convolutions and may scale
every residual branch by a learnt vector. Its variants with text inside are in `swin_vl.py`.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from timm.layers import DropPath, trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

SHIFT_MASK_VALUE = -100.0


def window_partition(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) with H, W multiples of the window -> (B * windows, window * window, C), row by row per image."""
    b, h, w, c = x.shape
    x = x.view(b, h // window, window, w // window, window, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, c)


def window_reverse(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """The inverse of `window_partition`: (B * windows, window * window, C) -> (B, height, width, C)."""
    channels = windows.shape[-1]
    x = windows.view(-1, height // window, width // window, window, window, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, channels)


def shifted_window_mask(height: int, width: int, window: int, device: torch.device) -> Tensor:
    """Additive mask (windows, window^2, window^2): -100 between positions that only the cyclic shift made neighbours.

    height and width are the padded map's, multiples of the window; the shift is half a window.
    """
    shift = window // 2

    def regions(size: int) -> Tensor:
        position = torch.arange(size, device=device)
        return (position >= size - window).long() + (position >= size - shift).long()

    region = 3 * regions(height)[:, None] + regions(width)[None, :]
    ids = window_partition(region[None, :, :, None], window).squeeze(-1)  # (windows, window^2)
    different = ids[:, None, :] != ids[:, :, None]
    return different.to(torch.float32) * SHIFT_MASK_VALUE


def relative_position_index(window: int) -> Tensor:
    """(window^2, window^2) int64: row of the bias table for each pair of query and key position."""
    coords = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
    offset = coords[:, :, None] - coords[:, None, :] + window - 1
    return offset[0] * (2 * window - 1) + offset[1]


class Mlp(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows with a learnt bias per relative position."""

    def __init__(self, dim: int, window: int, num_heads: int):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide dim={dim}")
        self.num_heads = num_heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        trunc_normal_(self.relative_position_bias_table, std=0.02)

    def relative_position_bias(self) -> Tensor:
        """(heads, N, N) for N = window^2 positions."""
        n = self.relative_position_index.shape[0]
        return self.relative_position_bias_table[self.relative_position_index.view(-1)].view(n, n, -1).permute(2, 0, 1)

    def split_heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, C) -> query, key, value, each (B, heads, N, C / heads)."""
        b, n, c = x.shape
        return self.qkv(x).view(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B * windows, N, C), mask (windows, N, N) or None -> (B * windows, N, C)."""
        query, key, value = self.split_heads(x)
        bias = self.relative_position_bias()[None]
        if mask is not None:
            bias = (bias + mask[:, None]).repeat(x.shape[0] // mask.shape[0], 1, 1, 1)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        return self.proj(out.transpose(1, 2).flatten(2))


class SwinTransformerBlock(nn.Module):
    """(Shifted) window attention and MLP, pre-norm, on tokens (B, H * W, C).

    Args:
        shift: whether the windows are moved by half a window.
        layer_scale: initial value of the vector that scales both residual branches; None leaves it out.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window: int,
        *,
        shift: bool,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
    ):
        super().__init__()
        self.window, self.shift = window, window // 2 if shift else 0
        self.norm1 = nn.LayerNorm(dim)
        self.attn = self.build_attention(dim, window, num_heads)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        if layer_scale is None:
            self.gamma = None
        else:
            self.gamma = nn.Parameter(torch.full((dim,), layer_scale))

    def build_attention(self, dim: int, window: int, num_heads: int) -> nn.Module:
        return WindowAttention(dim, window, num_heads)

    def to_windows(self, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """(B, H * W, C) -> windows (B * windows, N, C) of the padded, shifted map, and the padded (H, W)."""
        height, width = size
        x = x.unflatten(1, (height, width))
        x = F.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        padded = (x.shape[1], x.shape[2])
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        return window_partition(x, self.window), padded

    def from_windows(self, windows: Tensor, size: tuple[int, int], padded: tuple[int, int]) -> Tensor:
        x = window_reverse(windows, self.window, *padded)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        return x[:, : size[0], : size[1]].flatten(1, 2)

    def residual(self, x: Tensor, branch: Tensor, gamma: Tensor | None) -> Tensor:
        return x + self.drop_path(branch if gamma is None else gamma * branch)

    def forward(self, x: Tensor, size: tuple[int, int], shift_mask: Tensor | None) -> Tensor:
        """x (B, H * W, C), size (H, W), shift_mask (windows, N, N) used if the block shifts -> (B, H * W, C)."""
        windows, padded = self.to_windows(self.norm1(x), size)
        windows = self.attn(windows, shift_mask if self.shift else None)
        x = self.residual(x, self.from_windows(windows, size, padded), self.gamma)
        return self.residual(x, self.mlp(self.norm2(x)), self.gamma)


class PatchEmbed(nn.Module):
    """Non-overlapping 4x4 patches: (B, 3, H, W) -> (B, C, ceil(H / 4), ceil(W / 4))."""

    patch_size = 4
    padding = 0
    grid_at_224 = 56

    def __init__(self, dim: int, in_channels: int = 3):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, self.patch_size, stride=4, padding=self.padding)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % self.patch_size, 0, -height % self.patch_size))
        return self.norm(self.proj(images).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvEmbed(PatchEmbed):
    """Overlapping 7x7 patches with stride 4; the image is padded to a multiple of 7 first, which fixes the grid."""

    patch_size = 7
    padding = 2
    grid_at_224 = 32


class PatchMerging(nn.Module):
    """Joins 2x2 tokens: (B, H * W, C) -> (B, ceil(H / 2) * ceil(W / 2), 2 C)."""

    def __init__(self, dim: int):
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        height, width = size
        x = F.pad(x.unflatten(1, (height, width)), (0, 0, 0, width % 2, 0, height % 2))
        quarters = (x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2])
        return self.reduction(self.norm(torch.cat(quarters, -1).flatten(1, 2)))


class ConvDownsample(nn.Module):
    """3x3 convolution with stride 2, normalised after it: (B, H * W, C) -> (B, ceil(H / 2) * ceil(W / 2), 2 C)."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(dim, 2 * dim, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        x = self.proj(x.transpose(1, 2).unflatten(2, size))
        return self.norm(x.flatten(2).transpose(1, 2))


class SwinStage(nn.Module):
    """The blocks of one resolution and the down-sampling that follows them (None after the last stage)."""

    def __init__(self, blocks: Sequence[SwinTransformerBlock], downsample: nn.Module | None, *, use_checkpoint: bool):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample
        self.use_checkpoint = use_checkpoint

    def shift_mask(self, size: tuple[int, int], device: torch.device) -> Tensor | None:
        """The mask of the shifted blocks of a (H, W) map, None if no block shifts."""
        if not any(block.shift for block in self.blocks):
            return None
        window = self.blocks[0].window
        return shifted_window_mask(size[0] + -size[0] % window, size[1] + -size[1] % window, window, device)

    def run(self, block: Callable, *args):
        if self.use_checkpoint and self.training and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        mask = self.shift_mask(size, x.device)
        for block in self.blocks:
            x = self.run(block, x, size, mask)
        return x


class SwinTransformer(nn.Module):
    """Images (B, 3, H, W) -> list of maps (B, C_i, H / 4 / 2^i, W / 4 / 2^i), one for each entry of out_features.

    Args:
        embed_dim, depths, num_heads, window: the architecture; channels double from stage to stage.
        convolutional: overlapping convolutions for patch embedding and down-sampling ("v2").
        absolute_position: adds a learnt position table, resized to the grid.
        out_features: names "stage2" (stride 4) to "stage5" (stride 32).
        out_norm: LayerNorm on the returned maps; norm_first False leaves the stride-4 map as it is.
        freeze_at: 0 freezes the patch embedding, n >= 2 also the first n - 1 stages, -1 nothing.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window: int = 7,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.2,
        convolutional: bool = False,
        layer_scale: float | None = None,
        absolute_position: bool = False,
        out_features: Sequence[str] = ("stage2", "stage3", "stage4", "stage5"),
        out_norm: bool = True,
        norm_first: bool = True,
        freeze_at: int = -1,
        use_checkpoint: bool = False,
    ):
        super().__init__()
        self.freeze_at = freeze_at
        self.out_stages = [i for i in range(len(depths)) if f"stage{i + 2}" in out_features]
        self.patch_embed = (ConvEmbed if convolutional else PatchEmbed)(embed_dim)
        self.absolute_pos_embed: nn.Parameter | None = None
        if absolute_position:
            grid = self.patch_embed.grid_at_224
            self.absolute_pos_embed = nn.Parameter(trunc_normal_(torch.zeros(1, embed_dim, grid, grid), std=0.02))
        self.pos_drop = nn.Dropout(0.0)

        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        self.layers = nn.ModuleList()
        for i, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            dim = embed_dim * 2**i
            blocks = [
                self.build_block(i, len(depths))(
                    dim,
                    heads,
                    window,
                    shift=j % 2 == 1,
                    mlp_ratio=mlp_ratio,
                    drop_path=rates[sum(depths[:i]) + j],
                    layer_scale=layer_scale,
                )
                for j in range(depth)
            ]
            is_last = i == len(depths) - 1
            downsample = None if is_last else (ConvDownsample if convolutional else PatchMerging)(dim)
            self.layers.append(SwinStage(blocks, downsample, use_checkpoint=use_checkpoint and i > freeze_at - 1))
        if out_norm:
            for i in self.out_stages:
                norm = nn.LayerNorm(embed_dim * 2**i) if i or norm_first else nn.Identity()
                self.add_module(f"norm{i}", norm)
        self.out_norm = out_norm
        self._freeze_stages()

    def build_block(self, stage: int, num_stages: int) -> Callable[..., SwinTransformerBlock]:
        """The class of the blocks of a stage; variants override it."""
        return SwinTransformerBlock

    def _freeze_stages(self) -> None:
        frozen = [self.patch_embed] if self.freeze_at >= 0 else []
        if self.freeze_at >= 2:
            self.pos_drop.eval()
            frozen += list(self.layers[: self.freeze_at - 1])
        for module in frozen:
            module.eval()
            module.requires_grad_(False)
        if self.freeze_at >= 1 and self.absolute_pos_embed is not None:
            self.absolute_pos_embed.requires_grad_(False)

    def train(self, mode: bool = True) -> "SwinTransformer":
        super().train(mode)
        self._freeze_stages()
        return self

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images -> tokens (B, H * W, C) of the first stage, and (H, W)."""
        x = self.patch_embed(images)
        size = (x.shape[2], x.shape[3])
        if self.absolute_pos_embed is not None:
            x = x + F.interpolate(self.absolute_pos_embed, size=size, mode="bicubic")
        return self.pos_drop(x.flatten(2).transpose(1, 2)), size

    def output(self, stage: int, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens (B, H * W, C) after a stage -> normalised map (B, C, H, W)."""
        if self.out_norm:
            x = getattr(self, f"norm{stage}")(x)
        return x.transpose(1, 2).unflatten(2, size).contiguous()

    def forward(self, images: Tensor) -> list[Tensor]:
        x, size = self.embed(images)
        outputs = []
        for i, stage in enumerate(self.layers):
            x = stage(x, size)
            if i in self.out_stages:
                outputs.append(self.output(i, x, size))
            if stage.downsample is not None:
                x = stage.downsample(x, size)
                size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
        return outputs
