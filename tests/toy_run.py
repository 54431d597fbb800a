"""A whole training run of the tool at its smallest: a model, its data and a configuration file."""

import importlib.util
from pathlib import Path
from types import ModuleType

import torch
from data_files import write_coco_toy, write_grounding_toy
from torch import nn

TOOLS = Path(__file__).parents[1] / "tools"


class MeanModel(nn.Module):
    """Two losses from the mean colour of a picture, with dropout."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, images, targets, captions, positive_map, greenlight_map):
        colour = nn.functional.dropout(images.tensors.mean((2, 3)), 0.5, self.training)
        wanted = torch.tensor([float(len(target)) for target in targets], device=colour.device)
        assert len(captions) == len(targets) and len(positive_map) == wanted.sum()
        return {"loss_cls": (self.layer(colour).squeeze(1) - wanted).square().mean()}


def load_tool(name: str = "train_net") -> ModuleType:
    """tools/NAME.py."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_config(folder: Path, vocabulary: str) -> Path:
    """Detection and grounding data mixed, eight iterations, output in `folder`/out."""
    coco, grounding = write_coco_toy(folder), write_grounding_toy(folder)
    path = folder / "toy.yaml"
    path.write_text(
        f"""
MODEL:
  DEVICE: cpu
  LANGUAGE_BACKBONE: {{TOKENIZER_TYPE: {vocabulary}}}
INPUT: {{MIN_SIZE_TRAIN: 80}}
DATALOADER: {{NUM_WORKERS: 0}}
DATASETS:
  REGISTER:
    toy: {{type: grounding, img_dir: {folder}, ann_file: {coco}}}
    toy_text: {{type: modulated, img_dir: {folder}, ann_file: {grounding}}}
  TRAIN: ("toy", "toy_text")
SOLVER: {{OPTIMIZER: ADAMW, IMS_PER_BATCH: 2, MAX_ITER: 8, MAX_NEG_PER_BATCH: 0.5, CHECKPOINT_PERIOD: 3,
  WARMUP_ITERS: 2, MODEL_EMA: 0.9}}
OUTPUT_DIR: {folder / "out"}
"""
    )
    return path
