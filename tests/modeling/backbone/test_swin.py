"""Swin bodies against loops over windows and queries, at sizes that no window divides."""

import pytest
import torch
from modeling.backbone.swin_reference import block_reference, embedding_reference, merging_reference
from tiny_detector import scramble

from maskrcnn_benchmark.modeling.backbone import SwinTextTransformer, SwinTransformer
from maskrcnn_benchmark.modeling.backbone.swin import ConvDownsample, PatchMerging, SwinStage

SMALL = {"embed_dim": 4, "depths": (2, 1, 2, 2), "num_heads": (1, 2, 2, 4), "window": 3, "drop_path_rate": 0.0}


def small_body(**options) -> SwinTransformer:
    torch.manual_seed(0)
    return scramble(SwinTransformer(**SMALL | options)).double().eval()


def reference_maps(body: SwinTransformer, image: torch.Tensor) -> list[torch.Tensor]:
    """Outputs (C, H, W) of all stages of one image (3, H, W)."""
    if body.patch_embed.patch_size == 7:
        x = embedding_reference(body.patch_embed, image, multiple=7, stride=4, padding=2)
    else:
        x = embedding_reference(body.patch_embed, image, multiple=4, stride=4, padding=0)
    outputs = []
    for i, stage in enumerate(body.layers):
        for block in stage.blocks:
            x, _ = block_reference(block, x)
        out = getattr(body, f"norm{i}")(x) if body.out_norm else x
        outputs.append(out.permute(2, 0, 1))
        if isinstance(stage.downsample, PatchMerging):
            x = merging_reference(stage.downsample, x)
        elif isinstance(stage.downsample, ConvDownsample):
            down = stage.downsample.proj(x.permute(2, 0, 1)[None])[0]
            x = stage.downsample.norm(down.permute(1, 2, 0))
    return outputs


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="v1"),
        pytest.param({"norm_first": False}, id="v1-retinanet"),
        pytest.param({"convolutional": True, "layer_scale": 1e-4}, id="v2"),
        pytest.param({"convolutional": True, "out_norm": False}, id="v2-plain"),
    ],
)
@torch.no_grad()
def test_odd_map_and_maps_smaller_than_a_window(options):
    """22 x 38 pixels: 6 x 10 tokens, then 3 x 5, 2 x 3 and 1 x 2, windows of 3."""
    body = small_body(**options)
    images = torch.randn(2, 3, 22, 38, dtype=torch.float64)
    ours = body(images)
    for i, image in enumerate(images):
        for level, expected in zip(ours, reference_maps(body, image), strict=True):
            torch.testing.assert_close(level[i], expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_shapes_of_odd_images():
    """50 x 70 pixels: 13 x 18 tokens, rounded up at every halving; all maps but the first are below a window of 14."""
    body = SwinTransformer(**SMALL | {"window": 14}).eval()
    shapes = [tuple(level.shape) for level in body(torch.randn(1, 3, 50, 70))]
    assert shapes == [(1, 4, 13, 18), (1, 8, 7, 9), (1, 16, 4, 5), (1, 32, 2, 3)]


@pytest.mark.parametrize(("height", "grid"), [(800, 201), (28, 7), (29, 9), (1, 2)])
def test_grid_of_the_convolutional_embedding(height, grid):
    """v2 pads to a multiple of 7 before the 7x7 convolution of stride 4."""
    with torch.device("meta"):
        body = SwinTransformer(**SMALL, convolutional=True)
        tokens, size = body.embed(torch.empty(1, 3, height, 8))
    assert size[0] == grid == (7 * -(-height // 7) + 4 - 7) // 4 + 1
    assert tokens.shape[1] == size[0] * size[1]


@torch.no_grad()
def test_padding_inside_the_batch_is_part_of_the_image():
    """A batch gives what its images give alone: nothing crosses the batch dimension."""
    body = small_body()
    images = torch.randn(3, 3, 30, 26, dtype=torch.float64)
    for i, image in enumerate(images):
        for together, alone in zip(body(images), body(image[None]), strict=True):
            torch.testing.assert_close(together[i], alone[0])


def test_absolute_positions_are_resized_to_the_grid():
    body = small_body(absolute_position=True)
    assert body.absolute_pos_embed.shape == (1, 4, 56, 56)
    assert small_body(absolute_position=True, convolutional=True).absolute_pos_embed.shape == (1, 4, 32, 32)
    image = torch.zeros(1, 3, 224, 224, dtype=torch.float64)
    without = body.patch_embed(image).flatten(2).transpose(1, 2)
    torch.testing.assert_close(
        body.embed(image)[0], without + body.absolute_pos_embed.flatten(2).transpose(1, 2), rtol=1e-9, atol=1e-9
    )
    assert body.embed(torch.zeros(1, 3, 40, 24, dtype=torch.float64))[1] == (10, 6)


def test_only_the_named_stages_are_returned():
    body = small_body(out_features=("stage3", "stage5"))
    assert [level.shape[1] for level in body(torch.randn(1, 3, 32, 32, dtype=torch.float64))] == [8, 32]
    assert not {name.split(".")[0] for name in body.state_dict()} & {"norm0", "norm2"}


def test_state_dict_of_both_layouts():
    """Layer scale is one vector per block, merging has no bias, and the index of the bias table is stored."""
    v1, v2 = set(small_body().state_dict()), set(small_body(convolutional=True, layer_scale=1e-4).state_dict())
    shared = {"layers.0.blocks.1.attn.relative_position_index", "patch_embed.norm.weight", "norm3.bias"}
    assert shared <= v1 & v2
    assert {name for name in v1 - v2 if name.startswith("layers.0")} == {"layers.0.downsample.reduction.weight"}
    assert {name for name in v2 - v1 if name.startswith("layers.0")} == {
        "layers.0.blocks.0.gamma", "layers.0.blocks.1.gamma",
        "layers.0.downsample.proj.weight", "layers.0.downsample.proj.bias",
    }  # fmt: skip


def test_drop_path_rates_grow_linearly():
    body = SwinTransformer(**SMALL | {"drop_path_rate": 0.6})
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in body.layers for block in stage.blocks]
    assert rates == pytest.approx([0.1 * i for i in range(7)])


@pytest.mark.parametrize(("freeze_at", "stages"), [(-1, None), (0, 0), (1, 0), (2, 1), (4, 3)])
def test_frozen_stages_survive_train(freeze_at, stages):
    body = SwinTransformer(**SMALL, freeze_at=freeze_at, absolute_position=True)
    assert body.train() is body and body.eval() is body
    body.train()
    assert body.patch_embed.proj.weight.requires_grad is (stages is None)
    assert body.absolute_pos_embed.requires_grad is (freeze_at < 1)
    for i, stage in enumerate(body.layers):
        frozen = stages is not None and i < stages
        assert stage.training is not frozen
        assert all(parameter.requires_grad is not frozen for parameter in stage.parameters())


def test_checkpointing_changes_no_gradient(monkeypatch):
    images = torch.randn(1, 3, 30, 26, dtype=torch.float64)
    gradients = []
    calls = []
    run = SwinStage.run
    monkeypatch.setattr(SwinStage, "run", lambda self, *args: calls.append(self.use_checkpoint) or run(self, *args))
    for use_checkpoint in (False, True):
        body = small_body(use_checkpoint=use_checkpoint).train()
        sum(level.square().sum() for level in body(images)).backward()
        gradients.append([parameter.grad for parameter in body.parameters()])
    assert set(calls) == {False, True}
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "options",
    [pytest.param({}, id="vl"), pytest.param({"convolutional": True, "layer_scale": 1e-4}, id="v2_vl")],
)
@torch.no_grad()
def test_text_inside_the_last_stage(options):
    """Images see words and words the whole image; masked words are seen by nobody."""
    torch.manual_seed(0)
    small = {"embed_dim": 4, "depths": (1, 1, 1, 2), "num_heads": (1, 2, 2, 2), "window": 2, "drop_path_rate": 0.0}
    body = scramble(SwinTextTransformer(text_dim=6, num_tokens=5, **small | options)).double().eval()
    images = torch.randn(2, 3, 60, 90, dtype=torch.float64)  # 2 x 3 tokens in the last stage: two windows
    text = torch.randn(2, 5, 6, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    maps, hidden = body(images, text, mask)
    plain = []
    handle = body.layers[3].blocks[0].norm1.register_forward_hook(lambda _m, inputs, _o: plain.append(inputs[0]))
    body(images, text, mask)
    handle.remove()
    height, width = maps[3].shape[-2:]
    for i in range(2):
        x, words = plain[0][i].unflatten(0, (height, width)), text[i]
        for block in body.layers[3].blocks:
            x, words = block_reference(block, x, words, mask[i])
        torch.testing.assert_close(maps[3][i], body.norm3(x).permute(2, 0, 1), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(hidden[i], words, rtol=1e-9, atol=1e-9)
    unmasked = torch.ones_like(mask)
    for one, other in zip(body(images, text, unmasked)[0], body(images, text, None)[0], strict=True):
        torch.testing.assert_close(one, other)
    changed = text.clone()
    changed[0, 3:] += 1
    for one, other in zip(maps, body(images, changed, mask)[0], strict=True):
        torch.testing.assert_close(one, other)


def test_text_of_another_length_is_refused():
    small = {"embed_dim": 4, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "window": 3}
    body = SwinTextTransformer(text_dim=6, num_tokens=5, **small)
    with pytest.raises(ValueError, match="built for 5 text tokens, got 4; set PAD_MAX True"):
        body(torch.randn(1, 3, 32, 32), torch.randn(1, 4, 6), None)


def test_parameters_of_the_text_stage():
    small = {"embed_dim": 4, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 2), "window": 3}
    state = SwinTextTransformer(text_dim=6, num_tokens=5, convolutional=True, layer_scale=1e-4, **small).state_dict()
    added = {name: tuple(state[name].shape) for name in state if "text" in name or "t_rel" in name}
    prefix = "layers.3.blocks.0."
    assert {name.removeprefix(prefix): shape for name, shape in added.items()} == {
        "gamma_text": (6,),
        "attn.i2t_relative_position_bias": (2, 2, 5), "attn.t2t_relative_position_bias": (2, 5, 5),
        "attn.qkv_text.weight": (96, 6), "attn.qkv_text.bias": (96,),
        "attn.proj_text.weight": (6, 32), "attn.proj_text.bias": (6,),
        "norm1_text.weight": (6,), "norm1_text.bias": (6,), "norm2_text.weight": (6,), "norm2_text.bias": (6,),
        "mlp_text.fc1.weight": (24, 6), "mlp_text.fc1.bias": (24,),
        "mlp_text.fc2.weight": (6, 24), "mlp_text.fc2.bias": (6,),
    }  # fmt: skip
