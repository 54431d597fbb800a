"""The command line of tools/pseudo_label.py around a fake network."""

import logging

import pytest
from fake_detector import fake_detector
from pair_files import write_json_lines, write_webdataset

from maskrcnn_benchmark.cli import console, pseudo_label
from maskrcnn_benchmark.data.datasets.caption_tsv import CaptionTSV


@pytest.fixture(autouse=True)
def own_logging():
    """The command directs the package's messages to a file in its output folder; afterwards all is as before."""
    logger = logging.getLogger("maskrcnn_benchmark")
    handlers, level = list(logger.handlers), logger.level
    yield
    for handler in logger.handlers:
        handler.close()
    logger.handlers, logger.level = handlers, level


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.setattr(pseudo_label, "load_detector", lambda args: fake_detector())

    def run(*words: str) -> int:
        arguments = ["--out", str(tmp_path / "out"), *words, "--device", "cpu"]
        return console.report_errors(
            lambda: pseudo_label.run(pseudo_label.parse_arguments("tools/pseudo_label.py", None, arguments))
        )

    return run


def test_labels_and_statistics(command, tmp_path, capsys):
    pairs = str(write_json_lines(tmp_path))
    assert command("--pairs", pairs, "--pairs-per-shard", "2", "--format", "v2", "--threshold", "0.75") == console.OK
    shown = capsys.readouterr().out
    for text in ("pairs           5", "shards          3 of 3", f"written to {tmp_path}/out/data.yaml"):
        assert text in shown
    data = CaptionTSV(tmp_path / "out" / "data.yaml", caption_format_version="v2")
    assert len(data.label(4)["bboxes"]) == 2
    assert "shard pairs-00002" in (tmp_path / "out" / "log.txt").read_text()
    assert command("--pairs", pairs, "--pairs-per-shard", "2", "--format", "v2") == console.BAD_INPUT
    assert "threshold 0.75 there, 0.5 now" in capsys.readouterr().err


def test_labels_of_other_pictures_or_of_another_teacher_are_not_gone_on_with(command, tmp_path, capsys):
    """Weights are known by their content: training may have gone on under the same name."""
    pairs, weights = str(write_json_lines(tmp_path)), tmp_path / "teacher.pth"
    (tmp_path / "other").mkdir()
    weights.write_bytes(b"first")
    model = ("--config-file", "teacher.yaml", "--weights", str(weights))
    for words, text in (
        ((), ""),
        (("--images", f"{tmp_path}/other"), "images None there, '"),
        (model, "model 'glip_nano'"),
    ):
        assert command("--pairs", pairs, *words) == (console.BAD_INPUT if text else console.OK)
        assert text in capsys.readouterr().err
    again = ("--pairs", pairs, *model, "--out", str(tmp_path / "second"))
    assert command(*again) == console.OK
    assert command(*again) == console.OK
    weights.write_bytes(b"later")
    assert command(*again) == console.BAD_INPUT
    assert f"model ['teacher.yaml', '{weights}'," in capsys.readouterr().err


def test_a_shard_that_fails(command, tmp_path, capsys):
    for number in range(2):
        write_webdataset(tmp_path / f"{number}.tar")
    (tmp_path / "1.tar").write_bytes((tmp_path / "1.tar").read_bytes()[:2900])
    assert command("--pairs", f"{tmp_path}/*.tar") == console.PARTIAL_FAILURE
    shown = capsys.readouterr().out
    assert "shard 1 failed: tar file" in shown and f"written to {tmp_path}/out/statistics.json" in shown


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "--pairs"),
        (("--pairs", "none.jsonl"), "no file 'none.jsonl'"),
        (("--pairs", "a.tar", "--images", "pictures"), "--images pictures belongs to JSON lines"),
        (("--pairs", "a.tar", "--nms", "0"), "nms=0.0"),
        (("--pairs", "a.tar", "--config-file", "a.yaml"), "--config-file and --weights go together"),
        (("--pairs", "a.tar", "--pairs-per-shard", "0"), "'0' is not a number from 1 on"),
        (("--pairs", "a.tar", "--threshold", "2"), "'2' is not a number from 0 to 1"),
        (("--pairs", "a.tar", "--format", "v3"), "'v3'"),
    ],
)
def test_mistakes_end_with_one_line(command, capsys, words, text):
    assert command(*words) == console.BAD_INPUT
    shown = capsys.readouterr().err
    assert text in shown and shown.count("\n") == 1
