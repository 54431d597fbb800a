"""The commands of README's section on fine-tuning run as written, but for paths, sizes, epochs and processes."""

import json
import re
import shlex

import pytest
from published_command import free_port
from seeds.test_finetuning_commands import PotholeSetting, TuningSetting, run_here
from tiny_detector import REPOSITORY

from maskrcnn_benchmark.cli.main import main
from maskrcnn_benchmark.engine.tuning.tuning_modes import TUNING_MODES

SECTION = re.search(
    r"^## Fine-tuning$(.*?)^## ", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)[1]
COMMANDS = "\n".join(re.findall(r"^    (\S.*|    .*)$", SECTION, re.MULTILINE)).replace("\\\n", " ").splitlines()
FIRST, *OTHER_WAYS, COLLECTION = [c for c in COMMANDS if "tools/finetune.py" in c or c.startswith("...")]
OWN_DATA = [command for command in COMMANDS if command.startswith("glip ")]
EPOCHS = r"(\d+)_200_(\d+)"


def test_every_command_is_run_below():
    assert len(OTHER_WAYS) == 2 and len(OWN_DATA) == 3 and len(COMMANDS) == 7
    modes = re.findall(r"TUNING_HIGHLEVEL_OVERRIDE (\w+)", " ".join(COMMANDS))
    assert set(modes) == {"full", "language_prompt_v2", "linear_prob"}
    rows = re.findall(r"^\| (`\w*(?:full|linear_prob|language_prompt).*?) \|", SECTION, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(TUNING_MODES) | {"full"}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["", *OTHER_WAYS])
def test_coco(tmp_path, way):
    """With two processes; the second and the third way are the first command with other entries at its end."""
    setting = TuningSetting(tmp_path)
    program = re.sub(
        r"^torchrun --nproc_per_node=4",
        f"-m torch.distributed.run --nproc_per_node=2 --master_port={free_port()}",
        FIRST,
    )
    program = re.sub(EPOCHS, r"\1_2_\2", program)
    setting.run_program(f"{program} {way.removeprefix('...')}")
    (run,) = json.loads((tmp_path / "out/results.json").read_text())["runs"]
    assert run["shots"] == 3 and run["history"]
    parts = {name.split(".")[0] for name in setting.changed("model_final.pth")}
    assert parts == ({"rpn"} if way else {"backbone", "language_backbone", "rpn"})


@pytest.mark.slow
def test_collection(tmp_path, monkeypatch):
    """One of its tasks, a single epoch for every training."""
    command = re.sub(EPOCHS, r"\1_1_\2", COLLECTION).replace("configs/odinw_13/*.yaml", "configs/odinw_13/pothole.yaml")
    results = run_here(command, PotholeSetting(tmp_path), monkeypatch)
    assert [(run["shots"], run["seed"]) for run in results["runs"]] == [
        (shots, seed) for shots in (1, 3, 10) for seed in (3, 30, 300)
    ]
    assert {row["measured_on"] for row in results["summary"]} >= {"validation (best)", "test"}


@pytest.mark.slow
def test_own_data(tmp_path, monkeypatch):
    """Fewer pictures and iterations; `own` and `tuned` lie in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    for command in OWN_DATA:
        words = shlex.split(command)[1:]
        for flag, value in (("--num", "6"), ("--iterations", "2")):
            if flag in words:
                words[words.index(flag) + 1] = value
        assert main(words) == 0, command
    assert (tmp_path / "tuned/report.html").is_file() and (tmp_path / "tuned/adapter.safetensors").is_file()
