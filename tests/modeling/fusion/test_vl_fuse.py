"""The fusion step that a configuration names, and its recomputation in the backward pass."""

import pytest
import torch
from tiny_detector import TEXT_DIM, scramble, tiny_config

from maskrcnn_benchmark.modeling.fusion import (
    AttentionT2I,
    BiAttentionBlockForCheckpoint,
    FilmFusion,
    TowerState,
    VLFuse,
    build_fusion,
)

FUSE = "MODEL.DYHEAD.FUSE_CONFIG"


def state(requires_grad: bool = False) -> TowerState:
    torch.manual_seed(2)
    levels = [
        torch.randn(2, 16, *size, requires_grad=requires_grad) for size in ((4, 5), (2, 3), (1, 2), (1, 1), (1, 1))
    ]
    hidden = torch.randn(2, 6, TEXT_DIM, requires_grad=requires_grad)
    return TowerState(levels, hidden, torch.ones(2, 6, dtype=torch.long), hidden.detach().mean(1))


def test_types(text_folder):
    def fusion(kind: str, *options):
        return build_fusion(tiny_config(text_folder, f"{FUSE}.TYPE", kind, *options))

    two_way = fusion("MHA-B")
    assert isinstance(two_way, VLFuse) and type(two_way.b_attn) is BiAttentionBlockForCheckpoint
    assert (two_way.b_attn.gamma_v == 0.5).all()  # 1 / NUM_CONVS
    one_way = fusion("MHA-S")
    assert type(one_way.t2i_attn) is AttentionT2I and (one_way.t2i_attn.gamma == 0.5).all()
    assert fusion("MHA-S", f"{FUSE}.USE_LAYER_SCALE", False).t2i_attn.gamma is None
    assert isinstance(fusion("FILM"), FilmFusion)
    for kind in ("NONE", ""):
        none = fusion(kind)
        assert none(before := state()) is before and not none.state_dict()
    with pytest.raises(ValueError, match="SCAN.*use MHA-B, MHA-S, FILM or NONE"):
        fusion("SCAN")


@pytest.mark.parametrize(("outside", "prefix"), [(False, "b_attn.shrink_lang"), (True, "shrink_lang")])
def test_where_the_texts_of_separate_levels_are_merged(text_folder, outside, prefix):
    options = (f"{FUSE}.SEPARATE_BIDIRECTIONAL", True, f"{FUSE}.DO_LANG_PROJ_OUTSIDE_CHECKPOINT", outside)
    fusion = build_fusion(tiny_config(text_folder, *options)).eval()
    names = {name for name in fusion.state_dict() if "shrink_lang" in name}
    assert names == {f"{prefix}.{part}.{kind}" for part in ("fc", "layer_norm") for kind in ("weight", "bias")}
    assert fusion(state()).hidden.shape == (2, 6, TEXT_DIM)


@pytest.mark.parametrize("separate", [False, True])
def test_recomputation_changes_no_gradient(text_folder, separate):
    results = []
    for use_checkpoint in (False, True):
        cfg = tiny_config(
            text_folder, f"{FUSE}.SEPARATE_BIDIRECTIONAL", separate, "MODEL.DYHEAD.USE_CHECKPOINT", use_checkpoint
        )
        torch.manual_seed(0)
        fusion = scramble(build_fusion(cfg)).train()
        assert fusion.use_checkpoint is use_checkpoint
        before = state(requires_grad=True)
        torch.manual_seed(5)  # dropout is on, and recomputed with the same random numbers
        after = fusion(before)
        total = after.hidden.sin().sum() + sum(level.square().sum() for level in after.visual)
        leaves = [*before.visual, before.hidden, *fusion.parameters()]
        results.append([total, *torch.autograd.grad(total, leaves)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
