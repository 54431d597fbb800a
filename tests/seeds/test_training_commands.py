"""The training commands of the notes, run as written but for paths, sizes, the device and the number of processes."""

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from data_files import write_coco_toy
from tiny_detector import REPOSITORY, TINY, make_text_folder, tiny_config

from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.utils.weight_files import read_checkpoint

FINE_TUNING = r"""
    -m torch.distributed.launch --nproc_per_node={processes} --master_port={port} tools/train_net.py
    --config-file configs/pretrain/glip_A_Swin_T_O365.yaml
    --skip-test
    MODEL.WEIGHT {weight}
    DATASETS.TRAIN '("coco_grounding_train", )'
    MODEL.BACKBONE.FREEZE_CONV_BODY_AT -1 SOLVER.IMS_PER_BATCH {batch} SOLVER.USE_AMP True SOLVER.MAX_EPOCH 24
    TEST.DURING_TRAINING False TEST.IMS_PER_BATCH 8 SOLVER.FIND_UNUSED_PARAMETERS False SOLVER.BASE_LR 0.00001
    SOLVER.LANG_LR 0.00001 SOLVER.STEPS \(0.67,0.89\) DATASETS.DISABLE_SHUFFLE True MODEL.DYHEAD.SCORE_AGG "MEAN"
    TEST.EVAL_TASK detection
"""
DEBUG = "tools/train_net.py --config-file configs/pretrain/glip_A_Swin_T_O365_debug.yaml MODEL.WEIGHT {weight}"


class Setting:
    """A data root, small sizes, and weights of a model of that size."""

    def __init__(self, folder: Path, base: str):
        self.folder = folder
        text = make_text_folder(folder / "text")
        language = "MODEL.LANGUAGE_BACKBONE"
        self.sizes = [str(value) for value in TINY] + [
            f"{language}.MODEL_TYPE", str(text), f"{language}.TOKENIZER_TYPE", str(text),
            "OUTPUT_DIR", str(folder / "out"), "DATALOADER.NUM_WORKERS", "0", "SOLVER.MODEL_EMA", "0.0",
            "INPUT.MIN_SIZE_TRAIN", "64", "AUGMENT.MULT_MIN_SIZE_TRAIN", "(64,)",
        ]  # fmt: skip
        self.weight = folder / "glip_a_tiny_o365.pth"
        torch.manual_seed(0)
        self.start = build_detection_model(tiny_config(text, base=base)).state_dict()
        torch.save({"model": self.start}, self.weight)

    def run(self, command: str, **values) -> dict:
        """The final checkpoint of the command, with `values` in its places."""
        arguments = shlex.split(command.format(weight=self.weight, **values)) + self.sizes
        environment = {**os.environ, "DATASET": str(self.folder), "OMP_NUM_THREADS": "1"}
        finished = subprocess.run(
            [sys.executable, *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300
        )
        assert finished.returncode == 0, finished.stderr[-3000:]
        return read_checkpoint(self.folder / "out" / "model_final.pth")

    def changed(self, checkpoint: dict) -> set[str]:
        """First parts of the names of the weights that training moved."""
        return {
            name.split(".")[0]
            for name, value in checkpoint["model"].items()
            if not torch.equal(value, self.start[name.removeprefix("module.")])
        }


@pytest.fixture
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_coco_fine_tuning(tmp_path, free_port):
    """Seed rows 13 and 14, which have 8 processes and a batch of 16, and 16 and 32: two pictures for each, as here."""
    pictures = tmp_path / "coco/train2017"
    pictures.mkdir(parents=True)
    (tmp_path / "coco/annotations").mkdir()
    annotations = write_coco_toy(pictures).read_text().replace('"iscrowd": 1', '"iscrowd": 0')
    (tmp_path / "coco/annotations/instances_train2017.json").write_text(annotations)
    setting = Setting(tmp_path, "glip_A_Swin_T_O365")
    checkpoint = setting.run(FINE_TUNING, processes=2, port=free_port, batch=4)
    assert checkpoint["iteration"] == 24 * 3 // 4, "24 epochs of three pictures"
    assert setting.changed(checkpoint) == {"backbone", "language_backbone", "rpn"}
    log = (tmp_path / "out/log.txt").read_text()
    assert "Processes: 2" in log and "loss_dot_product_token" in log


def test_debug_configuration(tmp_path):
    """Seed row 15: one process, generated pictures."""
    (tmp_path / "scenes/debug").mkdir(parents=True)
    (tmp_path / "scenes/debug/images").mkdir()
    write_coco_toy(tmp_path / "scenes/debug/images").rename(tmp_path / "scenes/debug/instances.json")
    setting = Setting(tmp_path, "glip_A_Swin_T_O365_debug")
    checkpoint = setting.run(DEBUG)
    assert checkpoint["iteration"] == 20 and setting.changed(checkpoint) == {"backbone", "language_backbone", "rpn"}
