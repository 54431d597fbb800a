"""The training commands of the notes, run as written but for paths, sizes, the device and the number of processes."""

import torch
from data_files import write_coco_toy
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
DEBUG = "tools/train_net.py --config-file configs/pretrain/glip_A_Swin_T_O365_debug.yaml MODEL.WEIGHT {weight}"


class TrainingSetting(Setting):
    """What training leaves behind."""

    def run(self, command: str, **values) -> dict:
        """The final checkpoint of the command, with `values` in its places."""
        self.run_program(command, **values)
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
    pictures = tmp_path / "coco/train2017"
    pictures.mkdir(parents=True)
    (tmp_path / "coco/annotations").mkdir()
    annotations = write_coco_toy(pictures).read_text().replace('"iscrowd": 1', '"iscrowd": 0')
    (tmp_path / "coco/annotations/instances_train2017.json").write_text(annotations)
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
