"""Every shipped configuration builds a detector, by itself or laid over a model's."""

from pathlib import Path

import golden_tools
import pytest
import torch
from config_tools import REPOSITORY

from maskrcnn_benchmark.config import default_config
from maskrcnn_benchmark.modeling.detector import build_detection_model

GOLDG = "configs/pretrain/glip_Swin_T_O365_GoldG.yaml"
MODEL_FOLDERS = ("pretrain", "scenes")
FILES = sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "configs").rglob("*.yaml"))


def configuration(*files: str):
    tree = default_config()
    for file in files:
        tree.merge_from_file(file)
    if tree.MODEL.LANGUAGE_BACKBONE.MODEL_TYPE == "bert-base-uncased":  # the folder has no weights, and needs none
        tree.MODEL.LANGUAGE_BACKBONE.MODEL_TYPE = str(golden_tools.GOLDEN_DIR / "bert")
        tree.MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE = str(golden_tools.GOLDEN_DIR / "bert")
    return tree


@pytest.mark.parametrize("file", FILES)
def test_file_builds_a_detector(file, bert_vocabulary):
    is_model = Path(file).parent.name in MODEL_FOLDERS and not Path(file).name.startswith("_")
    tree = configuration(file) if is_model else configuration(GOLDG, file)
    with torch.device("meta"):
        model = build_detection_model(tree)
    assert model.rpn.head.cls_logits.out_channels == tree.MODEL.DYHEAD.NUM_CLASSES - 1
