"""The training commands of the notes, run as written but for paths, sizes, the device and the number of processes."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from data_files import write_coco_split, write_coco_toy
from mdetr_files import write_built_in
from published_command import Setting, free_port

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
PRE_TRAINING = """
    -m torch.distributed.launch --nnodes 1 --nproc_per_node=2 --master_port={port} tools/train_net.py
    --config-file configs/pretrain/glip_Swin_T_O365_GoldG.yaml
    --skip-test --use-tensorboard --override_output_dir {output}
"""
MIXED_GROUNDING = """
    tools/train_net.py
    --config-file configs/pretrain/glip_Swin_T_O365_mixedgrounding.yaml
    --skip-test --use-tensorboard --override_output_dir {output}
"""
DEBUG = "tools/train_net.py --config-file configs/pretrain/glip_A_Swin_T_O365_debug.yaml MODEL.WEIGHT {weight}"


class TrainingSetting(Setting):
    """What training leaves behind, and in `output` what it printed."""

    def run(self, command: str, **values) -> dict:
        """The final checkpoint of the command, with `values` in its places."""
        self.output = self.run_program(command, **values)
        return read_checkpoint(self.folder / "out" / "model_final.pth")

    def changed(self, checkpoint: dict) -> set[str]:
        """First parts of the names of the weights that training moved."""
        return {
            name.split(".")[0]
            for name, value in checkpoint["model"].items()
            if not torch.equal(value, self.start[name.removeprefix("module.")])
        }


def test_coco_fine_tuning(tmp_path):
    """Seed rows 13 and 14, which have 8 processes and a batch of 16, and 16 and 32: two pictures for each, as here."""
    write_coco_split(tmp_path, "train2017")
    setting = TrainingSetting(tmp_path, "glip_A_Swin_T_O365")
    checkpoint = setting.run(FINE_TUNING, processes=2, port=free_port(), batch=4)
    assert checkpoint["iteration"] == 24 * 3 // 4, "24 epochs of three pictures"
    assert setting.changed(checkpoint) == {"backbone", "language_backbone", "rpn"}
    log = (tmp_path / "out/log.txt").read_text()
    assert "Processes: 2" in log and "loss_dot_product_token" in log


def test_debug_configuration(tmp_path):
    """Seed row 15: one process, generated pictures."""
    (tmp_path / "scenes/debug").mkdir(parents=True)
    (tmp_path / "scenes/debug/images").mkdir()
    write_coco_toy(tmp_path / "scenes/debug/images").rename(tmp_path / "scenes/debug/instances.json")
    setting = TrainingSetting(tmp_path, "glip_A_Swin_T_O365_debug")
    checkpoint = setting.run(DEBUG)
    assert checkpoint["iteration"] == 20 and setting.changed(checkpoint) == {"backbone", "language_backbone", "rpn"}


def sizes(batch: int) -> tuple:
    return ("MODEL.WEIGHT", "", "SOLVER.IMS_PER_BATCH", batch, "SOLVER.MAX_EPOCH", 4, "SOLVER.MAX_NEG_PER_BATCH", 0.9)


@pytest.mark.slow
def test_pre_training_on_mixed_data(tmp_path):
    """Seed row 36, which has two nodes of 16 processes: Objects365, sentences on COCO and GQA pictures, Flickr30k."""
    pictures = tmp_path / "Objects365/images"
    pictures.mkdir(parents=True)
    (tmp_path / "Objects365/annotations").mkdir()
    write_coco_toy(pictures).rename(tmp_path / "Objects365/annotations/instances_train.json")
    for name in ("mixed_train_no_coco", "flickr30k_train"):
        write_built_in(tmp_path, name)
    setting = TrainingSetting(tmp_path, "glip_Swin_T_O365_GoldG", options=sizes(batch=4))
    checkpoint = setting.run(PRE_TRAINING, port=free_port(), output=tmp_path / "out")
    log = (tmp_path / "out/log.txt").read_text()
    counts = dict(re.findall(r"Dataset (\w+): (\d+) items", log))
    assert set(counts) == {"object365_dt_train", "mixed_train_no_coco", "flickr30k_train"}
    assert checkpoint["iteration"] == 4 * sum(map(int, counts.values())) // 4 and "Processes: 2" in log
    assert any(path.name.startswith("events.out.tfevents") for path in (tmp_path / "out").iterdir())


@pytest.mark.slow
def test_training_on_grounding_data_alone(tmp_path):
    """Seed row 36, second command: one process, sentences on COCO and GQA pictures."""
    write_built_in(tmp_path, "mixed_train_no_coco")
    setting = TrainingSetting(tmp_path, "glip_Swin_T_O365_mixedgrounding", options=sizes(batch=2))
    setting.run(MIXED_GROUNDING, output=tmp_path / "out")
    assert re.findall(r"Dataset (\w+): ", (tmp_path / "out/log.txt").read_text()) == ["mixed_train_no_coco"]


SCRIPTS = [
    pytest.param("train_full_8p.sh", 2, 3),
    pytest.param("train_performance_1p.sh", 1, 2, marks=pytest.mark.slow),
    pytest.param("train_full_1p.sh", 1, 3, marks=pytest.mark.slow),
    pytest.param("train_performance_8p.sh", 2, 2, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("script", "processes", "iterations"), SCRIPTS)
def test_scripts(tmp_path, monkeypatch, script, processes, iterations):
    """Seed rows 49 to 52: the weights lie under pretrain/; accuracy and throughput are printed."""
    for split in ("train2017", "val2017"):
        write_coco_split(tmp_path, split)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PROCESSES", str(processes))
    is_full = "full" in script
    setting = TrainingSetting(
        tmp_path,
        "glip_Swin_T_O365_GoldG",
        "pretrain/glip_tiny_model_o365_goldg_cc_sbu.pth",
        ("SOLVER.MAX_NEG_PER_BATCH", 0.9, "INPUT.MIN_SIZE_TEST", 64),
    )
    checkpoint = setting.run(
        "test/{script} --config-file configs/pretrain/glip_Swin_T_O365_GoldG.yaml --override_output_dir {output} "
        "MODEL.WEIGHT pretrain/glip_tiny_model_o365_goldg_cc_sbu.pth SOLVER.IMS_PER_BATCH {processes} "
        "SOLVER.USE_AMP True " + ("SOLVER.MAX_EPOCH {processes}" if is_full else "SOLVER.MAX_ITER 2"),
        program="bash",
        script=script,
        processes=processes,
        output=tmp_path / "out",
    )
    assert checkpoint["iteration"] == iterations and f"Processes: {processes}" in setting.output
    assert ("Accuracy: AP " if is_full else "Accuracy: not measured") in setting.output
    assert f"images/s on {processes} process(es)" in setting.output
    report = json.loads((tmp_path / "out/training_report.json").read_text())
    assert (report["accuracy"] is not None) is is_full and report["images_per_s"] > 0
