"""The ``glip`` command itself: help, table of commands, errors, exit codes."""

import subprocess
import sys

import pytest

from maskrcnn_benchmark.cli import console
from maskrcnn_benchmark.cli import main as main_module
from maskrcnn_benchmark.cli.console import CommandError
from maskrcnn_benchmark.cli.main import COMMANDS, Command, main


def one_error_line(capsys) -> str:
    """The single line on standard error."""
    output = capsys.readouterr()
    assert output.err.count("\n") == 1 and output.err.startswith("glip: error: "), output.err
    return output.err


@pytest.mark.parametrize("argv", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_of_every_command(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS) if argv == ["--help"] else f"glip {argv[0]}" in shown


def test_help_does_not_load_torch():
    code = "import sys; sys.argv = ['glip', *sys.argv[1:]]; from maskrcnn_benchmark.cli.main import main; main()"
    check = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); {code}"
    for argv in (["--help"], *([name, "--help"] for name in COMMANDS)):
        result = subprocess.run([sys.executable, "-c", check, *argv], capture_output=True, text=True, timeout=600)
        assert result.returncode == 0 and result.stdout.rstrip().endswith("False"), result


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        ([], "COMMAND"),
        (["paint"], "'paint'"),
        (["predict"], "--image"),
        (["predict", "--image", "a.png"], "--text"),
        (["predict", "--image", "a.png", "--text", "a", "--caption", "b"], "--caption"),
        (["predict", "--image", "a.png", "--text", "a", "--threshold", "2"], "'2'"),
        (["predict", "--image", "a.png", "--text", "a", "--threshold", "nan"], "'nan'"),
        (["predict", "--image", "a.png", "--text", "a", "--batch-size", "0"], "'0'"),
        (["predict", "--image", "a.png", "--text", "a", "--sharpen"], "--sharpen"),
        (["predict", "--image", "a.png", "--text", "a", "--treshold", "0.4"], "did you mean --threshold?"),
        (["predict", "--image", "a.png", "--text", "person.", "traffic", "light"], "traffic light"),
        (["train", "--config-file", "a.yaml", "MODEL.DEVICE", "cpu", "--resumee", "none"], "did you mean --resume?"),
    ],
)
def test_wrong_command_lines(argv, value, capsys):
    assert main(argv) == console.BAD_INPUT
    assert value in one_error_line(capsys)


def test_flags_stand_among_configuration_entries(monkeypatch):
    seen = []
    monkeypatch.setattr("maskrcnn_benchmark.cli.train.run", lambda args: seen.append(args) or 0)
    argv = ["MODEL.DEVICE", "cpu", "--config-file", "a.yaml", "SOLVER.MAX_ITER", "3", "--profile", "SOLVER.STEPS", "-1"]
    assert main(["train", *argv]) == console.OK
    assert seen[0].opts == ["MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "-1"] and seen[0].profile


@pytest.mark.parametrize(
    "error", [CommandError("bad\n value 7"), ValueError("bad value 7"), FileNotFoundError("bad value 7")]
)
def test_mistakes_become_one_line(error, capsys, monkeypatch):
    def fail(args):
        raise error

    monkeypatch.setattr("maskrcnn_benchmark.cli.env.run", fail)
    assert main(["env"]) == console.BAD_INPUT
    assert one_error_line(capsys) == "glip: error: bad value 7\n"
    monkeypatch.setenv("GLIP_DEBUG", "1")
    with pytest.raises(type(error)):
        main(["env"])


def test_stopped_by_the_user(capsys, monkeypatch):
    def fail(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("maskrcnn_benchmark.cli.env.run", fail)
    assert main(["env"]) == console.INTERRUPTED
    assert "stopped" in one_error_line(capsys)


def test_our_own_faults_keep_their_traceback(monkeypatch):
    def fail(args):
        raise ZeroDivisionError

    monkeypatch.setattr("maskrcnn_benchmark.cli.env.run", fail)
    with pytest.raises(ZeroDivisionError):
        main(["env"])


def test_every_command_of_the_table_is_a_module():
    for name, command in COMMANDS.items():
        assert isinstance(command, Command) and command.help
        module = main_module.import_module(command.module)
        assert callable(module.add_parser) and callable(module.run), name


def test_env(capsys):
    assert main(["env"]) == console.OK
    shown = capsys.readouterr().out
    assert all(f"{name}:" in shown for name in ("glip", "python", "torch", "triton", "pillow", "cuda", "glip_nano"))
