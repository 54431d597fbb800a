"""The fine-tuning commands of the notes, run as written but for paths, sizes, epochs, the device and the processes."""

import json
import re
import shlex

import pytest
import torch
from data_files import write_coco_split
from published_command import Setting, free_port
from tiny_detector import REPOSITORY
from toy_run import load_tool
from tuning_data import write_split

from maskrcnn_benchmark.cli.tools import run_checkpoint_evaluation
from maskrcnn_benchmark.evaluation.odinw import find_runs
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


def run_here(command: str, setting: Setting, monkeypatch) -> dict:
    """results.json of a command of tools/finetune.py, run in this process."""
    monkeypatch.setenv("DATASET", str(setting.folder))
    monkeypatch.chdir(REPOSITORY)
    words = shlex.split(command)
    assert load_tool("finetune").main(words[words.index("tools/finetune.py") + 1 :] + setting.sizes) == 0
    return json.loads((setting.folder / "out/results.json").read_text())


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


@pytest.mark.parametrize("processes", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_prompt_tuning(tmp_path, monkeypatch, processes):
    """Row 81: of the whole model the prompt alone changes. With 0 the program runs here, without its launcher."""
    setting = TuningSetting(tmp_path)
    if processes:
        results = setting.run(*PROMPT, "3_1_4", processes=processes)
    else:
        mode, rates = PROMPT
        command = COMMON.format(weight=setting.weight, port=0, processes=1, mode=mode, rates=rates, shots="3_1_4")
        results = run_here(command, setting, monkeypatch)
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


ODINW = """
    tools/finetune.py
    --config-file configs/pretrain/glip_Swin_T_O365_GoldG.yaml --ft-tasks {tasks} {flags}
    --custom_shot_and_epoch_and_general_copy 3_1_4
    --evaluate_only_best_on_test --push_both_val_and_test
    MODEL.WEIGHT {weight}
    SOLVER.USE_AMP True TEST.DURING_TRAINING True TEST.IMS_PER_BATCH 4 SOLVER.IMS_PER_BATCH 4 SOLVER.WEIGHT_DECAY 0.05
    TEST.EVAL_TASK detection DATASETS.TRAIN_DATASETNAME_SUFFIX _grounding MODEL.BACKBONE.FREEZE_CONV_BODY_AT 2
    MODEL.DYHEAD.USE_CHECKPOINT True SOLVER.FIND_UNUSED_PARAMETERS False SOLVER.TEST_WITH_INFERENCE True
    SOLVER.USE_AUTOSTEP True DATASETS.USE_OVERRIDE_CATEGORY True SOLVER.SEED 10 DATASETS.SHUFFLE_SEED 3
    DATASETS.USE_CAPTION_PROMPT True DATASETS.DISABLE_SHUFFLE True
    SOLVER.STEP_PATIENCE 3 SOLVER.CHECKPOINT_PER_EPOCH 1.0 SOLVER.AUTO_TERMINATE_PATIENCE 8 SOLVER.MODEL_EMA 0.0
    SOLVER.TUNING_HIGHLEVEL_OVERRIDE full
"""


class PotholeSetting(Setting):
    """The task "pothole" of ODinW with six pictures in each split below the data root, and small sizes."""

    def __init__(self, folder):
        write_pothole(folder)
        super().__init__(
            folder,
            "glip_Swin_T_O365_GoldG",
            "MODEL/glip_tiny_model_o365_goldg_cc_sbu.pth",
            ("INPUT.MIN_SIZE_TEST", 64, "INPUT.MIN_SIZE_TRAIN", 64, "MODEL.ATSS.INFERENCE_TH", 0.0),
        )


def write_pothole(root) -> None:
    """With its prepared choices of three pictures for two seeds."""
    for split in ("train", "valid", "test"):
        folder = root / "odinw/pothole" / split
        path = write_split(root / "odinw/pothole", split, 6)
        content = json.loads(path.read_text())
        content["categories"] = [{"id": 1, "name": "a hole"}]
        for annotation in content["annotations"]:
            annotation["category_id"] = 1
        path.write_text(json.dumps(content))
        path.rename(folder / "annotations_without_background.json")
        for seed in (3, 30):
            prefix = "val" if split == "valid" else split
            few = content | {"images": content["images"][seed % 2 : 4]}
            few["annotations"] = [
                entry
                for entry in content["annotations"]
                if entry["image_id"] in {image["id"] for image in few["images"]}
            ]
            (folder / f"fewshot_{prefix}_shot3_seed{seed}.json").write_text(json.dumps(few))


@pytest.fixture
def odinw(tmp_path, monkeypatch):
    """Runs the program of the published command for ODinW in this process."""
    setting = PotholeSetting(tmp_path)

    def run(flags: str, tasks: str = "configs/odinw_35/pothole.yaml") -> dict:
        return run_here(ODINW.format(weight=setting.weight, flags=flags, tasks=tasks), setting, monkeypatch)

    return run


def test_odinw_task(odinw, tmp_path):
    """The command that GLIP's README gives for ODinW, with its test and two choices of pictures."""
    results = odinw("--shuffle_seeds 3,30")
    rows = {(row["measured_on"], row["seeds"]) for row in results["summary"]}
    assert rows == {("validation (best)", 2), ("val", 2), ("test", 2)}
    assert all(run["checkpoint"].endswith("model_best.pth") for run in results["runs"])
    choices = [
        json.loads((tmp_path / f"out/ft_task_1_seed_{seed}/few_shot_images.json").read_text())["train_grounding"]
        for seed in (3, 30)
    ]
    assert choices[0]["image_ids"] != choices[1]["image_ids"], "grounding data honour the seed"
    assert choices[0]["pictures"] == {"pothole": 3}, "the overriding name"
    log = (tmp_path / "out/log.txt").read_text()
    assert "there are some holes on the road" in log
    leaderboard = json.loads((tmp_path / "out/leaderboard.json").read_text())
    assert set(leaderboard["pothole"]) == {"3", "30"}
    found = find_runs(tmp_path / "out", "test", "odinw_35")
    assert [run.seed for run in found] == ["3", "30"]


def test_prepared_splits_of_odinw(odinw, tmp_path):
    results = odinw("--use_prepared_data --shuffle_seeds 3,30 --skip-test")
    assert [run["seed"] for run in results["runs"]] == [3, 30]
    for seed, pictures in ((3, 3), (30, 4)):
        config = (tmp_path / f"out/ft_task_1_seed_{seed}/config.yml").read_text()
        assert f"train_3_{seed}" in config and f"val_3_{seed}" in config
        assert re.search(rf"Dataset train_3_{seed}_grounding: {pictures} items", (tmp_path / "out/log.txt").read_text())


@pytest.mark.slow
def test_checkpoints_of_a_task_are_evaluated_by_eval_all(odinw, tmp_path):
    odinw("--skip-test")
    folder = tmp_path / "out/ft_task_1"
    flags = ["--config-file", str(folder / "config.yml"), "--evaluate_only_best_on_test"]
    assert run_checkpoint_evaluation("", flags) == 0
    assert set(json.loads((folder / "eval/summary.json").read_text())["model_best"]) == {"val", "test"}
