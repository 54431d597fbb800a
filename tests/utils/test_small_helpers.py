"""Mixed precision names, imports by path, the site hook, complexity figures and file helpers."""

import importlib
import io
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from yacs.config import CfgNode

from maskrcnn_benchmark.utils import amp, cv2_util, env
from maskrcnn_benchmark.utils.imports import import_file
from maskrcnn_benchmark.utils.miscellaneous import mkdir, save_config
from maskrcnn_benchmark.utils.stats import get_model_complexity_info


def test_amp_names(recwarn):
    class Double(torch.autograd.Function):
        @staticmethod
        @amp.custom_fwd(cast_inputs=torch.float32)
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        @amp.custom_bwd
        def backward(ctx, gradient):
            return 2 * gradient

    x = torch.ones(1, requires_grad=True)
    scaler = amp.GradScaler()
    with amp.autocast():
        scaler.scale(Double.apply(x)).backward()
    assert (x.grad / scaler.get_scale()).item() == 2.0
    with amp.autocast(dtype=torch.bfloat16, device_type="cpu"):
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.bfloat16
    with amp.autocast(False, device_type="cpu"):
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float32
    assert not recwarn.list


def test_import_file(tmp_path):
    path = tmp_path / "some_module.py"
    path.write_text("value = 41 + 1\n")
    assert import_file("glip_test_module", path).value == 42
    assert "glip_test_module" not in sys.modules
    module = import_file("glip_test_module", path, make_importable=True)
    assert sys.modules.pop("glip_test_module") is module
    with pytest.raises(FileNotFoundError, match=r"missing\.py"):
        import_file("x", tmp_path / "missing.py")
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises(ImportError, match="not a Python file"):
        import_file("x", tmp_path / "text.txt")


def test_site_hook(tmp_path, monkeypatch):
    path = tmp_path / "site_setup.py"
    path.write_text("import os\ndef setup_environment():\n    os.environ['GLIP_TEST_HOOK'] = 'ran'\n")
    monkeypatch.setenv("GLIP_TEST_HOOK", "")
    monkeypatch.setenv("TORCH_DETECTRON_ENV_MODULE", str(path))
    importlib.reload(env)
    assert env.os.environ["GLIP_TEST_HOOK"] == "ran"
    path.write_text("")
    with pytest.raises(ValueError, match=r"site_setup\.py defines no function setup_environment"):
        env.setup_environment()
    monkeypatch.delenv("TORCH_DETECTRON_ENV_MODULE")
    env.setup_environment()


def test_complexity():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5))
    model.train()
    table = io.StringIO()
    macs, parameters = get_model_complexity_info(model, (3, 4, 4), as_strings=False, ost=table)
    assert macs == 3 * 8 * 9 * 16 + 8 * 16 * 5
    assert parameters == 3 * 8 * 9 + 8 * 16 * 5 + 5
    lines = [line.split() for line in table.getvalue().splitlines()]
    assert ["4.10", "KMac", "100.00%", "Global"] in lines
    assert ["3.46", "KMac", "84.38%", "Sequential.0"] in lines
    assert model.training
    texts = get_model_complexity_info(
        model,
        (1, 3, 4, 4),
        print_per_layer_stat=False,
        input_constructor=lambda shape: {"input": torch.ones(shape)},
    )
    assert texts == ("4.10 KMac", "861")


def test_file_helpers(tmp_path):
    for _ in range(2):
        mkdir(tmp_path / "a" / "b")
    save_config(CfgNode({"A": {"B": 1}}), tmp_path / "a" / "config.yml")
    assert (tmp_path / "a" / "config.yml").read_text() == "A:\n  B: 1\n"


@pytest.mark.parametrize("answer", [("picture", "contours", "hierarchy"), ("contours", "hierarchy")])
def test_contours_of_every_opencv(monkeypatch, answer):
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(findContours=lambda *args, **kwargs: answer))
    assert cv2_util.findContours("mask", 1, 2) == ("contours", "hierarchy")
