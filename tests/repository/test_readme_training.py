"""The commands of README's section on training run as written, but for paths, sizes and the number of processes."""

import os
import re
import shlex
import sys
from pathlib import Path

import pytest
from data_files import write_coco_split
from published_command import Setting, free_port
from seeds.test_training_commands import MIXED_GROUNDING, PRE_TRAINING, SCRIPTS
from tiny_detector import REPOSITORY

from maskrcnn_benchmark.cli.main import main
from maskrcnn_benchmark.utils.weight_files import read_checkpoint

SECTION = re.search(
    r"^## Training$(.*?)^## ", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)[1]
COMMANDS = "\n".join(re.findall(r"^    (\S.*|    .*)$", SECTION, re.MULTILINE)).replace("\\\n", " ").splitlines()
SCENES = [command for command in COMMANDS if "configs/scenes" in command or command.startswith("glip scenes")]
PUBLISHED = [command for command in COMMANDS if "configs/pretrain" in command]
OF_SCRIPTS = [command for command in COMMANDS if "bash test/" in command]
CHANGED = r"--nnodes \S+|--nproc_per_node=\S+|--master_port=\S+|--override_output_dir \S+"


def unchanged_words(command: str) -> list[str]:
    return re.sub(CHANGED, "", command).split()


def test_every_command_is_run_somewhere():
    assert len(SCENES) == 4 and len(PUBLISHED) == 2 and len(OF_SCRIPTS) == 4
    assert len(COMMANDS) == len(SCENES) + len(PUBLISHED) + len(OF_SCRIPTS)
    of_seeds = [unchanged_words(f"python {command}") for command in (PRE_TRAINING, MIXED_GROUNDING)]
    assert [unchanged_words(command) for command in PUBLISHED] == of_seeds, "seed row 36 runs them"
    named = {re.search(r"test/(\w+\.sh)", command)[1] for command in OF_SCRIPTS}
    assert named == {script.values[0] for script in SCRIPTS}


@pytest.mark.slow
def test_training_on_scenes(tmp_path, monkeypatch):
    """Drawn, trained on by two processes, measured; then profiled."""
    monkeypatch.chdir(REPOSITORY)
    train_scenes, val_scenes, training, profile = SCENES
    for command, count in ((train_scenes, 16), (val_scenes, 4)):
        words = shlex.split(command.replace("DATASET/", f"{tmp_path}/"))
        words[words.index("--num") + 1] = str(count)
        assert main(words[1:]) == 0
    setting = Setting(tmp_path, "glip_Swin_T_O365_GoldG")
    setting.sizes = ["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0"]
    training = training.replace("29501", str(free_port())).replace("OUTPUT/scenes", str(tmp_path / "out"))
    setting.run_program(f"{training.removeprefix('python ')} MODEL.DEVICE cpu")
    assert read_checkpoint(tmp_path / "out/model_final.pth")["iteration"] == 2
    assert "Processes: 2" in (tmp_path / "out/log.txt").read_text() and (tmp_path / "out/training_report.json").exists()
    setting.sizes = []
    assert "parameters" in setting.run_program(profile.removeprefix("python "))


@pytest.mark.slow
@pytest.mark.parametrize("command", OF_SCRIPTS)
def test_scripts(tmp_path, monkeypatch, command):
    """Two processes at most, a batch of two, and so many copies of the three pictures that it is filled."""
    for split in ("train2017", "val2017"):
        write_coco_split(tmp_path, split)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PROCESSES", "1" if "1p" in command else "2")
    setting = Setting(
        tmp_path,
        "glip_Swin_T_O365_GoldG",
        "pretrain/glip_tiny_model_o365_goldg_cc_sbu.pth",
        ("SOLVER.MAX_NEG_PER_BATCH", 0.9, "INPUT.MIN_SIZE_TEST", 64, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_EPOCH", 0),
    )
    setting.sizes += ["SOLVER.MAX_ITER", "2", "MODEL.DEVICE", "cpu"]
    words = re.sub(r"^PROCESSES=\d+ ", "", command).removeprefix("bash ")
    words = re.sub(r"--override_output_dir \S+", "", words) + f" --override_output_dir {tmp_path / 'out'}"
    script, *arguments = words.split()
    flags = " ".join(arguments[-2:] + arguments[:-2])  # flags go before entries
    output = setting.run_program(f"{script} {flags}", program="bash")
    assert read_checkpoint(tmp_path / "out/model_final.pth")["iteration"] == 2 and "images/s on" in output
