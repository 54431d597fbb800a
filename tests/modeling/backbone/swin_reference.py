"""Swin blocks written as loops over windows, heads and queries, for one image at a time."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def shifted_map(x: Tensor, window: int, shift: int) -> Tensor:
    """(H, W, C) -> zero-padded to whole windows, row r and column c taken from r + shift and c + shift."""
    height, width = (-(-n // window) * window for n in x.shape[:2])
    padded = x.new_zeros(height, width, x.shape[2])
    padded[: x.shape[0], : x.shape[1]] = x
    result = torch.empty_like(padded)
    for r in range(height):
        for c in range(width):
            result[r, c] = padded[(r + shift) % height, (c + shift) % width]
    return result


def region(position: int, size: int, window: int, shift: int) -> int:
    """Which of three parts of an axis a position of the shifted map lies in."""
    return 0 if position < size - window else 1 if position < size - shift else 2


def head_slices(linear: nn.Linear, x: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(N, C) through the joint projection -> query, key, value, each (heads, N, C / heads)."""
    query, key, value = linear(x).chunk(3, dim=-1)
    split = [part.reshape(len(x), heads, -1).transpose(0, 1) for part in (query, key, value)]
    return split[0], split[1], split[2]


def attend(query: Tensor, keys: list[Tensor], values: list[Tensor], extras: list[float | Tensor]) -> Tensor:
    """One query (d,) over a list of keys, with an addition to every logit."""
    logits = torch.stack([query @ k / len(query) ** 0.5 + e for k, e in zip(keys, extras, strict=True)])
    return sum(p * v for p, v in zip(logits.softmax(0), values, strict=True))


def position_bias(attention: nn.Module, window: int, head: int, i: int, j: int) -> Tensor:
    """Learnt bias between query i and key j of a window, both counted row by row."""
    rows, columns = i // window - j // window, i % window - j % window
    row = (rows + window - 1) * (2 * window - 1) + columns + window - 1
    return attention.relative_position_bias_table[row, head]


def block_reference(
    block: nn.Module, x: Tensor, text: Tensor | None = None, text_mask: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """x (H, W, C), text (T, D), text_mask (T,), 1 = word -> both after the block (text None: without text)."""
    attention, window, shift = block.attn, block.window, block.shift
    heads = attention.num_heads
    tokens = shifted_map(block.norm1(x), window, shift)
    height, width, channels = tokens.shape
    updated = torch.zeros_like(tokens)
    all_keys: list[list[Tensor]] = [[] for _ in range(heads)]
    all_values: list[list[Tensor]] = [[] for _ in range(heads)]
    if text is not None:
        normed = block.norm1_text(text)
        text_query, text_key, text_value = head_slices(attention.qkv_text, normed, heads)
        words = [j for j in range(len(text)) if text_mask is None or text_mask[j]]
    for top in range(0, height, window):
        for left in range(0, width, window):
            places = [(top + i // window, left + i % window) for i in range(window * window)]
            parts = [(region(r, height, window, shift), region(c, width, window, shift)) for r, c in places]
            query, key, value = head_slices(attention.qkv, torch.stack([tokens[r, c] for r, c in places]), heads)
            for i, (r, c) in enumerate(places):
                out = []
                for head in range(heads):
                    extras = [position_bias(attention, window, head, i, j) for j in range(len(places))]
                    if shift:
                        extras = [e - 100.0 * (parts[i] != parts[j]) for j, e in enumerate(extras)]
                    keys, values = list(key[head]), list(value[head])
                    if text is not None:
                        keys += [text_key[head, j] for j in words]
                        values += [text_value[head, j] for j in words]
                        extras += [attention.i2t_relative_position_bias[0, head, j] for j in words]
                    out.append(attend(query[head, i], keys, values, extras))
                updated[r, c] = attention.proj(torch.cat(out))
            for head in range(heads):
                all_keys[head] += list(key[head])
                all_values[head] += list(value[head])
    # The map moves back by another shift, and the padding is cut off.
    back = torch.empty_like(updated)
    for r in range(height):
        for c in range(width):
            back[(r + shift) % height, (c + shift) % width] = updated[r, c]
    gamma = 1.0 if block.gamma is None else block.gamma
    x = x + gamma * back[: x.shape[0], : x.shape[1]]
    x = x + gamma * block.mlp(block.norm2(x))
    if text is None:
        return x, None
    rows = []
    for i in range(len(text)):
        out = []
        for head in range(heads):
            extras = [attention.i2t_relative_position_bias[1, head, i]] * len(all_keys[head])
            extras += [attention.t2t_relative_position_bias[head, i, j] for j in words]
            keys = all_keys[head] + [text_key[head, j] for j in words]
            values = all_values[head] + [text_value[head, j] for j in words]
            out.append(attend(text_query[head, i], keys, values, extras))
        rows.append(attention.proj_text(torch.cat(out)))
    gamma_text = 1.0 if block.gamma_text is None else block.gamma_text
    text = text + gamma_text * torch.stack(rows)
    return x, text + gamma_text * block.mlp_text(block.norm2_text(text))


def merging_reference(merging: nn.Module, x: Tensor) -> Tensor:
    """x (H, W, C) -> (ceil(H / 2), ceil(W / 2), 2 C): 2x2 neighbours, absent ones zero, column by column."""
    height, width, channels = x.shape
    rows = []
    for r in range(0, height, 2):
        for c in range(0, width, 2):
            quad = [
                x[r + dr, c + dc] if r + dr < height and c + dc < width else x.new_zeros(channels)
                for dc in (0, 1)
                for dr in (0, 1)
            ]
            rows.append(merging.reduction(merging.norm(torch.cat(quad))))
    return torch.stack(rows).reshape(-(-height // 2), -(-width // 2), -1)


def embedding_reference(embed: nn.Module, image: Tensor, *, multiple: int, stride: int, padding: int) -> Tensor:
    """image (3, H, W), zero-padded at the right and the bottom to a multiple -> tokens (H', W', C)."""
    height, width = (-(-n // multiple) * multiple for n in image.shape[1:])
    padded = image.new_zeros(3, height, width)
    padded[:, : image.shape[1], : image.shape[2]] = image
    x = F.conv2d(padded[None], embed.proj.weight, embed.proj.bias, stride=stride, padding=padding)[0]
    return embed.norm(x.permute(1, 2, 0))
