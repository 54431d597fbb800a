"""The network that tasks are evaluated with."""

import pytest
import torch
from tiny_detector import make_text_folder, tiny_config

from maskrcnn_benchmark.engine.testing.task_model import TaskModel
from maskrcnn_benchmark.modeling.detector import build_detection_model

CPU = torch.device("cpu")


@pytest.mark.parametrize("source", [None, "flag", "key", "run"])
def test_weights_that_nobody_gave_are_pointed_out(tmp_path, caplog, source):
    cfg = tiny_config(make_text_folder(tmp_path / "text"))
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    weight = tmp_path / "out" / "model_final.pth"
    weight.parent.mkdir()
    torch.save({"model": build_detection_model(cfg).state_dict()}, weight)
    if source == "run":
        (tmp_path / "out" / "last_checkpoint").write_text(weight.name)
    cfg.MODEL.WEIGHT = str(weight) if source == "key" else ""
    TaskModel(cfg, str(weight) if source == "flag" else None, CPU, None)
    assert ("The weights are random" in caplog.text) is (source is None)
