"""The scripts in tools report a mistake as the commands do: one line, exit code 2."""

from pathlib import Path

import pytest
from toy_run import load_tool

from maskrcnn_benchmark.cli import console

TOOLS = Path(__file__).resolve().parents[2] / "tools"
NANO = str(TOOLS.parent / "configs" / "scenes" / "glip_nano.yaml")


@pytest.mark.parametrize(
    ("name", "argv", "value"),
    [
        ("evaluate_scenes", ["--model", "glip_nan"], "did you mean glip_nano?"),
        ("evaluate_scenes", ["--weights", "w.pth"], "--config-file and --weights go together"),
        ("evaluate_scenes", ["--limit", "0"], "'0'"),
        ("export_model", [], "--checkpoint"),
        ("export_model", ["--checkpoint", "gone.pth", "--config-file", NANO, "--out", "out"], "gone.pth"),
        ("train_net", [], "--config-file"),
        ("train_net", ["--config-fil", NANO], "unknown flag --config-fil; did you mean --config-file?"),
        ("train_net", ["--config-file", NANO, "MODEL.DEVICE", "cpu", "--resumee=none"], "did you mean --resume?"),
        ("finetune", ["--config-file", NANO, "--colour"], "unknown flag --colour"),
        ("finetune", ["--config-file", NANO, "--resume", "never"], "'never'"),
    ],
)
def test_mistakes_are_one_line(name, argv, value, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main = load_tool(name).main
    assert console.report_errors(lambda: main(argv)) == console.BAD_INPUT
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and value in shown.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["train_net", "finetune"])
def test_help_names_the_configuration_entries(name, capsys):
    with pytest.raises(SystemExit):
        load_tool(name).main(["--help"])
    assert "KEY VALUE ... are entries" in capsys.readouterr().out
