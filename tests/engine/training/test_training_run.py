"""A whole run of tools/train_net.py with a small model: files, flags, resuming, mistakes."""

import argparse
from pathlib import Path

import pytest
import torch
from toy_run import MeanModel, load_tool, write_config

from maskrcnn_benchmark.cli import train as cli_train
from maskrcnn_benchmark.engine.training import training_run
from maskrcnn_benchmark.utils.weight_files import CheckpointError, read_checkpoint


@pytest.fixture(scope="module")
def tool():
    return load_tool()


@pytest.fixture
def config_file(tmp_path, bert_vocabulary, monkeypatch):
    monkeypatch.setattr(training_run, "build_detection_model", lambda cfg: MeanModel())
    return write_config(tmp_path, bert_vocabulary)


def final(folder: Path) -> dict:
    return read_checkpoint(folder / "model_final.pth")


def test_run_leaves_its_files(tool, config_file, tmp_path):
    arguments = ["SOLVER.MAX_ITER", "4", "--save_original_config", "--use-tensorboard", "--skip-test"]
    assert tool.main(["--config-file", str(config_file), *arguments, "SOLVER.BASE_LR", "0.01"]) == 0
    out = tmp_path / "out"
    names = {path.name for path in out.iterdir()}
    assert {"config.yml", "config_original.yml", "log.txt", "last_checkpoint", "model_0000003.pth"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert (out / "config_original.yml").read_text() == config_file.read_text()
    assert "MAX_ITER: 4" in (out / "config.yml").read_text() and "BASE_LR: 0.01" in (out / "config.yml").read_text()
    assert "iter: 4" in (out / "log.txt").read_text()
    checkpoint = final(out)
    assert checkpoint["iteration"] == 4
    assert {"model", "optimizer", "scheduler", "model_ema", "random_state", "scaler"} <= checkpoint.keys()


def test_interrupted_run_equals_an_uninterrupted_one(tool, config_file, tmp_path):
    command = ["--config-file", str(config_file)]
    tool.main([*command, "--override_output_dir", str(tmp_path / "whole")])
    parts = [*command, "--override_output_dir", str(tmp_path / "parts")]
    while not (tmp_path / "parts" / "model_final.pth").exists():
        tool.main([*parts, "--max-minutes", "1e-9"])
    assert (tmp_path / "parts" / "model_0000001.pth").exists(), "every part does one iteration"
    one, other = final(tmp_path / "whole"), final(tmp_path / "parts")
    for entry in ("model", "model_ema"):
        for name, value in one[entry].items():
            assert torch.equal(value, other[entry][name]), (entry, name)


def test_resume_from_a_path_and_not_at_all(tool, config_file, tmp_path):
    command = ["--config-file", str(config_file), "--override_output_dir"]
    tool.main([*command, str(tmp_path / "first")])
    tool.main([*command, str(tmp_path / "second"), "--resume", str(tmp_path / "first" / "model_0000006.pth")])
    assert not (tmp_path / "second" / "model_0000003.pth").exists(), "it goes on from iteration 6"
    assert torch.equal(
        final(tmp_path / "first")["model"]["layer.weight"], final(tmp_path / "second")["model"]["layer.weight"]
    )
    (tmp_path / "first" / "model_0000003.pth").unlink()
    tool.main([*command, str(tmp_path / "first"), "--resume", "none"])
    assert (tmp_path / "first" / "model_0000003.pth").exists(), "it starts from the beginning"


def test_first_weights(tool, config_file, tmp_path):
    weights = MeanModel().state_dict()
    torch.save({"model": weights, "iteration": 5}, tmp_path / "start.pth")
    tool.main(["--config-file", str(config_file), "MODEL.WEIGHT", str(tmp_path / "start.pth"), "SOLVER.BASE_LR", "0."])
    checkpoint = final(tmp_path / "out")
    assert torch.equal(checkpoint["model"]["layer.weight"], weights["layer.weight"]) and checkpoint["iteration"] == 8


def test_first_weights_that_fit_in_part(tool, config_file, tmp_path):
    weights = MeanModel().state_dict()
    del weights["layer.bias"]
    torch.save({"model": weights}, tmp_path / "start.pth")
    command = ["--config-file", str(config_file), "MODEL.WEIGHT", str(tmp_path / "start.pth"), "SOLVER.BASE_LR", "0."]
    with pytest.raises(CheckpointError, match=r"1 missing, e\.g\. layer\.bias.*--allow-partial"):
        tool.main(command)
    tool.main([*command, "--allow-partial"])
    assert torch.equal(final(tmp_path / "out")["model"]["layer.weight"], weights["layer.weight"])
    assert "1 missing, e.g. layer.bias" in (tmp_path / "out" / "log.txt").read_text()


def test_a_checkpoint_that_goes_before_the_first_weights_is_announced(tool, config_file, tmp_path):
    torch.save({"model": MeanModel().state_dict()}, tmp_path / "start.pth")
    command = ["--config-file", str(config_file), "MODEL.WEIGHT", str(tmp_path / "start.pth"), "SOLVER.MAX_ITER"]
    tool.main([*command, "2"])
    log = tmp_path / "out" / "log.txt"
    assert "are not read" not in log.read_text()
    tool.main([*command, "3"])
    tag = tmp_path / "out" / "model_final.pth"
    assert f"WARNING: Resuming from {tag}; the weights {tmp_path / 'start.pth'} are not read" in log.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("2",), "the patch embedding and the first stage of"),
        (("4",), "the patch embedding and the first 3 stages of"),
        (("0",), "the patch embedding of"),
        (("-1",), None),
        (("2", "MODEL.BACKBONE.FREEZE", "True"), None),
    ],
)
def test_frozen_stages_are_announced(tool, config_file, tmp_path, options, message):
    """The default of the key freezes some, whatever else is to be trained."""
    command = ["--config-file", str(config_file), "SOLVER.MAX_ITER", "1"]
    tool.main([*command, "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", *options])
    log = (tmp_path / "out" / "log.txt").read_text()
    assert message in log if message else "stay as they are" not in log


def test_glip_train_is_the_same_command(config_file, tmp_path):
    parser = argparse.ArgumentParser()
    cli_train.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["train", "--config-file", str(config_file), "SOLVER.MAX_ITER", "2"])
    assert cli_train.run(arguments) == 0
    assert final(tmp_path / "out")["iteration"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-minutes", "0"], "--max-minutes 0"),
        (["--resume", "/nowhere/model.pth"], "/nowhere/model.pth"),
        (["MODEL.WEIGHT", "/nowhere/start.pth"], "/nowhere/start.pth"),
        (["OUTPUT_DIR", ""], "OUTPUT_DIR is empty"),
        (["MODEL.DEVICE", "tpu"], "device 'tpu' is unknown"),
        (["SOLVER.CHECKPOINT_PERIOD", "0"], "SOLVER.CHECKPOINT_PERIOD"),
        (["SOLVER.AMP_DTYPE", "float8", "SOLVER.USE_AMP", "True"], "SOLVER.AMP_DTYPE='float8'"),
    ],
)
def test_mistakes_are_named(tool, config_file, arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        tool.main(["--config-file", str(config_file), *arguments])


def test_help_needs_nothing(tool, capsys):
    with pytest.raises(SystemExit) as stop:
        tool.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for flag in ("--local_rank", "--local-rank", "--skip-test", "--max-minutes", "--override_output_dir"):
        assert flag in text
