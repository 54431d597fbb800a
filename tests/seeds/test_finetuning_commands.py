"""The fine-tuning commands of the notes, run as written but for paths, sizes, epochs, the device and the processes."""

import json
import re

import pytest
import torch
from data_files import write_coco_split
from published_command import Setting, free_port

from maskrcnn_benchmark.utils.weight_files import read_checkpoint

COMMON = """
    -m torch.distributed.launch --nproc_per_node={processes} --master_port={port} tools/finetune.py
    --config-file configs/pretrain/glip_Swin_T_O365_GoldG.yaml --skip-test
    --custom_shot_and_epoch_and_general_copy {shots}
    --evaluate_only_best_on_test --push_both_val_and_test
    DATASETS.TRAIN '("coco_grounding_train", )'
    MODEL.WEIGHT {weight}
    SOLVER.USE_AMP True TEST.DURING_TRAINING True TEST.IMS_PER_BATCH 4 SOLVER.IMS_PER_BATCH 4 {rates}
    TEST.EVAL_TASK detection MODEL.BACKBONE.FREEZE_CONV_BODY_AT 2 MODEL.DYHEAD.USE_CHECKPOINT True
    SOLVER.FIND_UNUSED_PARAMETERS False SOLVER.TEST_WITH_INFERENCE True SOLVER.USE_AUTOSTEP True
    DATASETS.USE_OVERRIDE_CATEGORY True SOLVER.SEED 10 DATASETS.SHUFFLE_SEED 3 DATASETS.USE_CAPTION_PROMPT True
    DATASETS.DISABLE_SHUFFLE True
    SOLVER.STEP_PATIENCE 3 SOLVER.CHECKPOINT_PER_EPOCH 1.0 SOLVER.AUTO_TERMINATE_PATIENCE 8 SOLVER.MODEL_EMA 0.0
    SOLVER.TUNING_HIGHLEVEL_OVERRIDE {mode}
"""
FULL = ("full", "SOLVER.WEIGHT_DECAY 0.05")
PROMPT = ("language_prompt_v2", "SOLVER.BASE_LR 0.05 SOLVER.WEIGHT_DECAY 0.25")


class TuningSetting(Setting):
    """COCO's layout with three pictures and three categories below the data root, and small sizes."""

    def __init__(self, folder):
        for split in ("train2017", "val2017"):
            write_coco_split(folder, split)
        super().__init__(
            folder,
            "glip_Swin_T_O365_GoldG",
            "MODEL/glip_tiny_model_o365_goldg_cc_sbu.pth",
            ("INPUT.MIN_SIZE_TEST", 64),
        )

    def run(self, mode: str, rates: str, shots: str, processes: int = 1) -> dict:
        """results.json of the command."""
        self.run_program(COMMON, port=free_port(), mode=mode, rates=rates, shots=shots, processes=processes)
        return json.loads((self.folder / "out/results.json").read_text())

    def changed(self, name: str) -> set[str]:
        """Names of the weights that are not those it started from."""
        weights = read_checkpoint(self.folder / "out/ft_task_1" / name)["model"]
        return {
            key for key, value in weights.items() if key not in self.start or not torch.equal(value, self.start[key])
        }


def test_few_shot(tmp_path):
    """Row 79, which has four processes and 200 epochs, and the first triple of row 80."""
    setting = TuningSetting(tmp_path)
    results = setting.run(*FULL, "3_2_4", processes=2)
    folder = tmp_path / "out/ft_task_1"
    names = {path.name for path in folder.iterdir()}
    assert {"config.yml", "model_0000003.pth", "model_best.pth", "model_final.pth", "last_checkpoint"} <= names
    (choice,) = json.loads((folder / "few_shot_images.json").read_text()).values()
    assert choice["shots"] == 3 and choice["seed"] == 3 and sorted(choice["image_ids"]) == [2, 5, 9]
    assert {name.split(".")[0] for name in setting.changed("model_final.pth")} == {
        "backbone", "language_backbone", "rpn"
    }  # fmt: skip
    assert not any("layers.0" in name or "patch_embed" in name for name in setting.changed("model_final.pth"))
    (run,) = results["runs"]
    assert [iteration for iteration, _ in run["history"]] == [3, 6], "an epoch is three pictures, four times"
    assert run["best"] == max(figures["AP"] for _, figures in run["history"]) and run["test"] == {}
    assert [row["measured_on"] for row in results["summary"]] == ["validation (best)"]
    log = (tmp_path / "out/log.txt").read_text()
    assert "Processes: 2" in log and "Few-shot data coco_grounding_train: 3 pictures" in log
    assert re.search(r"\| +3 +\| +validation \(best\) +\|", log)


def test_prompt_tuning(tmp_path):
    """Row 81: of the whole model the prompt alone changes."""
    setting = TuningSetting(tmp_path)
    results = setting.run(*PROMPT, "3_1_4")
    assert setting.changed("model_best.pth") == {"rpn.tunable_linear.weight"}
    table = read_checkpoint(tmp_path / "out/ft_task_1/model_final.pth")["model"]["rpn.tunable_linear.weight"]
    assert table.shape == (1000, 16) and 0 < table[:48].abs().max() < 1 and not table[48:].any()
    assert results["summary"][0]["shots"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("shots", ["1_1_8", "3_1_4", "4_1_2", "5_1_2", "10_1_1", "0_1_1"])
def test_every_triple(tmp_path, shots):
    """Row 80: all numbers of shots, "4_200_2" of the notes too, with fewer epochs."""
    setting = TuningSetting(tmp_path)
    results = setting.run(*FULL, shots.replace("_1_1", "_2_2"))
    assert results["runs"][0]["shots"] == int(shots.split("_")[0])
