"""Detectors without numbers: on the meta device a full-size model is built in a second and computes shapes only."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch

from maskrcnn_benchmark.config import CfgNode, default_config

if TYPE_CHECKING:
    from maskrcnn_benchmark.modeling.detector import GeneralizedVLRCNN


@pytest.fixture(scope="session")
def shape_model(bert_vocabulary) -> Callable[..., "GeneralizedVLRCNN"]:
    """`shape_model("glip_Swin_T_O365_GoldG", "KEY", value, ...)`: a detector in eval mode on the meta device."""
    from maskrcnn_benchmark.modeling.detector import build_detection_model

    def build(name: str, *overrides) -> "GeneralizedVLRCNN":
        cfg = configuration(name, bert_vocabulary, *overrides)
        with torch.device("meta"):
            return build_detection_model(cfg).eval()

    return build


@pytest.fixture(scope="session")
def glip_t(shape_model) -> "GeneralizedVLRCNN":
    """GLIP-T, for tests that only look at it."""
    return shape_model("glip_Swin_T_O365_GoldG")


def configuration(name: str, text_folder: str, *overrides) -> CfgNode:
    """The tree of a file of configs/pretrain, with the text encoder described by a local folder."""
    cfg = default_config()
    cfg.merge_from_file(f"configs/pretrain/{name}.yaml")
    cfg.merge_from_list(["MODEL.LANGUAGE_BACKBONE.MODEL_TYPE", text_folder])
    cfg.merge_from_list(["MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE", text_folder, "MODEL.DEVICE", "cpu"])
    cfg.merge_from_list(list(overrides))
    return cfg
