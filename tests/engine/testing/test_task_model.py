"""Which weights a command evaluates."""

import torch
from evaluation_data import write_coco
from published_command import Setting
from tiny_detector import REPOSITORY

from maskrcnn_benchmark.cli.console import BAD_INPUT, report_errors
from maskrcnn_benchmark.cli.tools import run_evaluation

BASE = "glip_Swin_T_O365_GoldG"


def test_last_checkpoint_of_the_run_is_what_a_resumed_evaluation_depends_on(tmp_path, monkeypatch, capsys):
    """Without --weight; training went on in between, and the new weights must not be mixed with what the old found."""
    write_coco(tmp_path)
    monkeypatch.setenv("DATASET", str(tmp_path))
    monkeypatch.chdir(REPOSITORY)
    place = Setting(tmp_path, BASE, "out/model_1.pth", ("INPUT.MIN_SIZE_TEST", 64, "TEST.REPORT", False))
    torch.save({"model": {name: value + 0.1 for name, value in place.start.items()}}, tmp_path / "out/model_2.pth")
    words = ["--config-file", f"configs/pretrain/{BASE}.yaml", "--resume", *place.sizes]
    for name, code in (("model_1", 0), ("model_1", 0), ("model_2", BAD_INPUT)):
        (tmp_path / "out/last_checkpoint").write_text(f"{name}.pth")
        assert report_errors(lambda: run_evaluation(None, words)) == code
    assert "cannot be resumed, as it differs in weight" in capsys.readouterr().err
