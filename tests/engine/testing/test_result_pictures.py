"""Pictures with what was found."""

import numpy as np
import pytest
from evaluation_data import write_coco, write_flickr, write_lvis
from PIL import Image
from published_command import Setting
from tiny_detector import REPOSITORY

from maskrcnn_benchmark.cli.console import BAD_INPUT, report_errors
from maskrcnn_benchmark.cli.tools import run_evaluation, run_visualization
from maskrcnn_benchmark.engine.testing.visualization_run import picture_numbers

BASE = "glip_Swin_T_O365_GoldG"
SMALL = ("INPUT.MIN_SIZE_TEST", 64, "MODEL.ATSS.INFERENCE_TH", 0.0, "MODEL.ATSS.PRE_NMS_TOP_N", 20)


@pytest.fixture
def words(tmp_path, monkeypatch) -> list[str]:
    """The command line of a tiny model."""
    for write in (write_coco, write_lvis, write_flickr):
        write(tmp_path)
    monkeypatch.setenv("DATASET", str(tmp_path))
    monkeypatch.chdir(REPOSITORY)
    place = Setting(tmp_path, BASE, "tiny.pth", SMALL)
    return ["--config-file", f"configs/pretrain/{BASE}.yaml", "--weight", str(place.weight), *place.sizes]


def differs(path, source) -> bool:
    """Whether something was drawn on a picture."""
    drawn, plain = Image.open(path), Image.open(source).convert("RGB")
    assert drawn.size == plain.size
    pixels = [np.asarray(image, dtype=np.float32) for image in (drawn, plain)]
    return bool(np.abs(pixels[0] - pixels[1]).max() > 60)


def test_chosen_pictures_are_drawn(words, tmp_path):
    folder = tmp_path / "vis"
    flags = ["--vis-dir", str(folder), "--image_index", "0,2", "--threshold", "0", "--color", "255", "--alpha", ".5"]
    assert run_visualization(None, [*words, *flags]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["tmp0.jpg", "tmp2.jpg"]
    assert differs(folder / "tmp0.jpg", tmp_path / "coco/val2017/2.png")
    assert run_visualization(None, [*words, *flags, "--threshold", "1", "--image_index", "1"]) == 0
    assert not differs(folder / "tmp1.jpg", tmp_path / "coco/val2017/5.png"), "no score is above 1"


def test_several_tasks(words, tmp_path):
    tasks = "configs/lvis/minival.yaml,configs/coco/val.yaml"
    flags = ["--vis-dir", str(tmp_path / "vis"), "--task_config", tasks, "TEST.EVAL_TASK", "detection"]
    assert run_visualization(None, [*words, *flags]) == 0
    assert sorted(str(path.relative_to(tmp_path / "vis")) for path in (tmp_path / "vis").glob("*/*")) == [
        "minival/tmp0.jpg",
        "val/tmp0.jpg",
    ]


@pytest.mark.parametrize(
    ("task", "kind", "test_set"),
    [
        ("coco/val", "detection", "coco_val"),
        ("lvis/minival", "detection", "lvis_evaluation_mini_val"),
        ("flickr/test", "grounding", "flickr30k_test"),
    ],
)
def test_pictures_of_an_evaluation(words, tmp_path, task, kind, test_set):
    """What was found on the left, what is there on the right."""
    flags = ["--task_config", f"configs/{task}.yaml", "--save-vis", "2", "TEST.EVAL_TASK", kind]
    assert run_evaluation(None, [*words, *flags]) == 0
    files = sorted((tmp_path / "out/eval/tiny/inference" / test_set / "vis").iterdir())
    assert [path.name for path in files] == ["000000.jpg", "000001.jpg"]
    assert Image.open(files[0]).size == (200, 80)


def test_numbers_of_pictures(words, capsys):
    assert picture_numbers("0, 2,5-7,6") == [0, 2, 5, 6, 7]
    with pytest.raises(ValueError, match="--image_index '7-5': give numbers"):
        picture_numbers("7-5")
    assert report_errors(lambda: run_visualization(None, [*words, "--image_index", "3"])) == BAD_INPUT
    assert "picture 3 of test set coco_2017_val: it has 3" in capsys.readouterr().err
    assert report_errors(lambda: run_visualization(None, [*words, "--image_index", "x"])) == BAD_INPUT
