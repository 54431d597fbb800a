"""The commands of README's section on evaluation run as written, but for paths, sizes and the number of processes."""

import json
import re
import shlex
from pathlib import Path

import pytest
from data_files import write_coco_toy
from evaluation_data import write_coco, write_flickr, write_lvis
from published_command import Setting, free_port
from tiny_detector import REPOSITORY

from maskrcnn_benchmark.cli.console import Parser
from maskrcnn_benchmark.cli.predict import add_parser as add_predict_parser
from maskrcnn_benchmark.cli.tools import run_evaluation, run_visualization

SECTION = re.search(
    r"^## Evaluation$(.*?)^## ", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)[1]
LINES = "\n".join(re.findall(r"^    (\S.*|    .*)$", SECTION, re.MULTILINE)).replace("\\\n", " ")
COMMANDS = [line for line in LINES.splitlines() if line.startswith("python ")]
SMALL = ("INPUT.MIN_SIZE_TEST", 64, "MODEL.ATSS.INFERENCE_TH", 0.0, "MODEL.ATSS.PRE_NMS_TOP_N", 20)
SIZES = ("TEST.SCALES", (64, 96), "TEST.RANGES", ((0, 1e4), (0, 1e4)))


@pytest.fixture
def place(tmp_path, monkeypatch) -> Setting:
    """Data in every layout that the commands read."""
    for write in (write_coco, write_lvis, write_flickr):
        write(tmp_path)
    write_flickr(tmp_path, subset="val")
    for task in ("pothole/valid", "EgoHands/generic/mini_val"):
        folder = tmp_path / "odinw" / task
        folder.mkdir(parents=True)
        annotations = json.loads(write_coco_toy(folder).read_text())
        annotations["categories"] = [{"id": 1, "name": "thing"}]
        annotations["annotations"] = [row | {"category_id": 1} for row in annotations["annotations"]]
        (folder / "annotations_without_background.json").write_text(json.dumps(annotations))
    monkeypatch.setenv("DATASET", str(tmp_path))
    monkeypatch.chdir(REPOSITORY)
    return Setting(tmp_path, "glip_Swin_T_O365_GoldG", "glip_tiny.pth", (*SMALL, *SIZES))


def words_of(command: str, place: Setting) -> list[str]:
    """The command without `python`, with the weights of the test."""
    words = shlex.split(command)[1:]
    words[words.index("--weight") + 1] = str(place.weight)
    return words


def test_the_section_has_commands():
    assert len(COMMANDS) >= 7 and sum("torch.distributed" in command for command in COMMANDS) >= 1


def test_published_figures():
    """What needs the published weights and data stands beside the command that measures it."""
    table = re.search(r"^\|[^\n]*\| published \| how to reproduce \|\n(.*?)\n\n", SECTION, re.MULTILINE | re.DOTALL)[1]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[1:]]
    assert all(len(row) == 3 and row[2] for row in rows)
    figures = " ".join(row[1] for row in rows)
    for first in (".429 .593", ".363 .603", "54.5 to 54.7", "1.13", ".46638 .63107", ".37554 .62210", ".7509 .7082"):
        assert first in figures
    for command in re.findall(r"`([^`]*)`", " ".join(row[2] for row in rows)):
        name, *words = shlex.split(command)
        if name == "glip":
            parser = Parser(prog="glip")
            add_predict_parser(parser.add_subparsers(dest="command"))
            assert parser.parse_args(words).model == "glip_tiny_model_o365_goldg_cc_sbu"
        paths = [word for word in (name, *words) if "/" in word and not word.startswith("MODEL")]
        assert all((REPOSITORY / path).is_file() for path in paths)


@pytest.mark.parametrize("command", COMMANDS)
def test_one_process(place, command):
    """The command without its launcher."""
    words = words_of(command, place)
    tool, *words = words[next(at for at, word in enumerate(words) if word.startswith("tools/")) :]
    if "visualize" in tool:
        assert run_visualization(None, [*words, *place.sizes, "--vis-dir", str(place.folder / "vis")]) == 0
        assert sorted(path.name for path in (place.folder / "vis").iterdir()) == ["tmp0.jpg", "tmp2.jpg"]
        return
    assert run_evaluation(None, [*words, *place.sizes]) == 0
    results = Path(place.folder, "out/eval/glip_tiny/inference")
    assert list(results.rglob("bbox.csv"))
    assert (results / "tasks.json").is_file() == ("pothole.yaml,configs" in command), "of several tasks with AP alone"


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in COMMANDS if "visualize" not in c])  # which draws in one process
def test_two_processes(place, command):
    """Those that have no launcher get one."""
    command = " ".join(shlex.quote(word) for word in words_of(command, place))
    if "torch.distributed" not in command:
        command = f"-m torch.distributed.launch --nproc_per_node=4 {command}"
    command = command.replace("--nproc_per_node=4", f"--nproc_per_node=2 --master_port={free_port()}")
    place.run_program(command.replace("{", "{{").replace("}", "}}"))
    assert list(Path(place.folder, "out/eval/glip_tiny/inference").rglob("bbox.csv"))
    assert "Processes: 2" in (place.folder / "out/eval/glip_tiny/log.txt").read_text()
