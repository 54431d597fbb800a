"""The fusion step of the tower, chosen by MODEL.DYHEAD.FUSE_CONFIG.TYPE."""

import logging

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .bi_attention import BiAttentionBlockForCheckpoint
from .film import FilmFusion
from .resizer import FeatureResizer
from .state import TowerState
from .t2i_attention import AttentionT2I

logger = logging.getLogger(__name__)

FUSION_TYPES = ("MHA-B", "MHA-S", "FILM")


class VLFuse(nn.Module):
    """Holds one attention block under its published name; without a block image and text stay as they are.

    Args:
        name: "b_attn" (two-way, "MHA-B") or "t2i_attn" (one-way, "MHA-S"); block: the module of that name.
        shrink_lang: merges the texts of separate two-way attention outside of the checkpointed block.
        use_checkpoint: recompute the block in the backward pass.
    """

    def __init__(
        self,
        name: str = "",
        block: BiAttentionBlockForCheckpoint | AttentionT2I | None = None,
        *,
        shrink_lang: FeatureResizer | None = None,
        use_checkpoint: bool = False,
    ):
        super().__init__()
        self.block_name, self.use_checkpoint = name, use_checkpoint
        if block is not None:
            self.add_module(name, block)
        self.shrink_lang = shrink_lang

    def forward(self, state: TowerState) -> TowerState:
        if not self.block_name:
            return state
        block = self.get_submodule(self.block_name)
        if self.use_checkpoint and self.training and torch.is_grad_enabled():
            state = checkpoint(block, state, use_reentrant=False)
        else:
            state = block(state)
        if self.shrink_lang is not None:
            state = state._replace(hidden=self.shrink_lang(state.hidden))
        return state


def build_fusion(cfg) -> VLFuse | FilmFusion:
    """The fusion step that MODEL.DYHEAD.FUSE_CONFIG.TYPE names; an unknown name means no fusion, as in the original."""
    fuse, head = cfg.MODEL.DYHEAD.FUSE_CONFIG, cfg.MODEL.DYHEAD
    v_dim, l_dim = fuse.JOINT_EMB_SIZE, cfg.MODEL.LANGUAGE_BACKBONE.LANG_DIM
    sizes = (v_dim, l_dim, fuse.FUSE_EMBED_DIM, fuse.FUSE_NUM_HEADS)
    limits = {"clamp_min": fuse.CLAMP_MIN_FOR_UNDERFLOW, "clamp_max": fuse.CLAMP_MAX_FOR_OVERFLOW}
    init_value = 1.0 / head.NUM_CONVS
    if fuse.TYPE == "SCAN":
        raise ValueError(
            "MODEL.DYHEAD.FUSE_CONFIG.TYPE='SCAN' never worked in the original (its shapes do not fit) and is not "
            "implemented; use MHA-B, MHA-S, FILM or NONE"
        )
    if fuse.TYPE not in FUSION_TYPES:
        logger.info("NO FUSION INVOLVED.")
        return VLFuse()
    logger.info("EARLY FUSION ON, USING %s", fuse.TYPE)
    if fuse.TYPE == "FILM":
        return FilmFusion(v_dim, l_dim, fuse.JOINT_OUT_SIZE, dropout=fuse.JOINT_EMB_DROPOUT)
    if fuse.TYPE == "MHA-S":
        scale = init_value if fuse.USE_LAYER_SCALE else None
        return VLFuse("t2i_attn", AttentionT2I(*sizes, init_value=scale, **limits))
    merge_outside = fuse.SEPARATE_BIDIRECTIONAL and fuse.DO_LANG_PROJ_OUTSIDE_CHECKPOINT
    block = BiAttentionBlockForCheckpoint(
        *sizes,
        init_value=init_value,
        separate=fuse.SEPARATE_BIDIRECTIONAL,
        merge_outside=merge_outside,
        stable_softmax_2d=fuse.STABLE_SOFTMAX_2D,
        **limits,
    )
    shrink_lang = FeatureResizer(block.num_levels * l_dim, l_dim) if merge_outside else None
    return VLFuse("b_attn", block, shrink_lang=shrink_lang, use_checkpoint=head.USE_CHECKPOINT)
