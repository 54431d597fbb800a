"""Pseudo-labels of many shards: stops, changes, failures, statistics."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_detector import fake_detector
from filelock import FileLock
from pair_files import CAPTIONS, contents, write_json_lines, write_webdataset

from maskrcnn_benchmark.data.datasets.caption_tsv import CaptionTSV
from maskrcnn_benchmark.data.image_text_pairs import find_shards
from maskrcnn_benchmark.engine.pseudo_labels import pseudo_label_run
from maskrcnn_benchmark.engine.pseudo_labels.pseudo_label import LabelOptions, ShardWriter
from maskrcnn_benchmark.engine.pseudo_labels.pseudo_label_run import Outcome, label_pairs

OPTIONS = LabelOptions()


def run(path: Path, out: Path, *, options=OPTIONS, description=None, make=fake_detector) -> Outcome:
    return label_pairs(find_shards([str(path)], None, 2), out, make, options, description or {"threshold": 0.5})


def no_teacher():
    raise AssertionError("there is nothing to do")


def test_one_data_set_of_all_shards(tmp_path):
    out = tmp_path / "out"
    outcome = run(write_json_lines(tmp_path), out)
    assert outcome.is_complete and (outcome.shards, outcome.total.rows, outcome.total.boxes) == (3, 5, 9)
    assert outcome.unique_phrases == 9 and "unique phrases  9" in outcome.as_text()
    assert json.loads((out / "statistics.json").read_text()) == outcome.as_dict()
    assert sorted(path.name for path in (out / "shards").iterdir()) == [f"pairs-0000{i}" for i in range(3)]
    whole = CaptionTSV(out / "data.yaml")
    assert [whole.caption(i) for i in range(5)] == list(CAPTIONS)
    parts = [CaptionTSV(out / f"captions.{i}.yaml") for i in range(3)]
    assert [part.caption(i) for part in parts for i in range(len(part))] == list(CAPTIONS)
    assert not (out / ".claims").exists()


def test_phrases_count_once_over_all_shards(tmp_path):
    path = write_json_lines(tmp_path, ["a dog", "a cat", "A dog", "a dog", "a hat"])
    assert run(path, tmp_path / "out").unique_phrases == 3


def test_finished_shards_are_skipped(tmp_path):
    path, out = write_json_lines(tmp_path), tmp_path / "out"
    run(path, out)
    before = contents(out)
    times = {name: os.stat(out / name).st_mtime_ns for name in before if name.startswith("shards")}
    assert run(path, out, make=no_teacher).total.rows == 5
    assert contents(out) == before and times == {name: os.stat(out / name).st_mtime_ns for name in times}


def test_a_stopped_run_goes_on(tmp_path, monkeypatch):
    """Nothing half-written has a final name; what was finished is not done again, and the result is the same."""
    path, out = write_json_lines(tmp_path), tmp_path / "out"
    run(path, tmp_path / "wanted")
    calls = []

    def stop_at_the_fourth(self, pair, *arguments):
        calls.append(pair.key)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return write(self, pair, *arguments)

    write = ShardWriter.write
    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "write", stop_at_the_fourth)
        with pytest.raises(KeyboardInterrupt):
            run(path, out)
    assert calls == [f"pairs:{i}" for i in (1, 2, 3, 4)]
    assert [folder.name for folder in (out / "shards").iterdir()] == ["pairs-00000"]
    assert not (out / "data.yaml").exists()
    (out / "shards" / ".pairs-00001.partial-1").mkdir()  # as after a kill
    outcome = run(path, out)
    assert outcome.total.rows == 5 and contents(out) == contents(tmp_path / "wanted")


def test_a_mistake_that_left_no_labels_is_forgotten(tmp_path):
    path, out = write_json_lines(tmp_path), tmp_path / "out"
    with pytest.raises(AssertionError, match="there is nothing to do"):
        run(path, out, description={"model": "a name with a mistake"}, make=no_teacher)
    assert run(path, out, description={"model": "fake"}).is_complete


def test_labels_of_another_kind_are_not_mixed(tmp_path):
    path, out = write_json_lines(tmp_path), tmp_path / "out"
    run(path, out)
    with pytest.raises(ValueError, match=r"made otherwise \(threshold 0.5 there, 0.7 now\): name another folder"):
        run(path, out, description={"threshold": 0.7})
    path.write_text(path.read_text().replace("0.png", "1.png").replace("two cats", "three cats"))
    with pytest.raises(ValueError, match=r"pairs of the finished shard '.*pairs-00000' have changed"):
        run(path, out)


def test_a_second_run_is_refused(tmp_path):
    path, out = write_json_lines(tmp_path), tmp_path / "out"
    out.mkdir()
    with FileLock(out / ".lock"), pytest.raises(ValueError, match=r"another run is writing to '.*out'"):
        run(path, out)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"nothing can be written to '.*file/out'"):
        run(path, tmp_path / "file" / "out")


def test_a_shard_that_cannot_be_read(tmp_path):
    """The others are finished, and a later run with the file mended does the rest."""
    for number in range(3):
        write_webdataset(tmp_path / f"{number}.tar")
    broken, out = tmp_path / "1.tar", tmp_path / "out"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:2900])
    outcome = run(tmp_path, out)
    assert (outcome.finished, outcome.shards, outcome.total.rows) == (2, 3, 10) and not outcome.is_complete
    assert list(outcome.failed) == ["1"] and "1.tar cannot be read" in outcome.failed["1"]
    assert sorted(path.name for path in (out / "shards").iterdir()) == ["0", "2"] and not (out / "data.yaml").exists()
    with pytest.raises(ValueError, match=r"1.tar cannot be read"):
        run(tmp_path, out, options=LabelOptions(on_error="raise"))
    broken.write_bytes(whole)
    outcome = run(tmp_path, out)
    assert outcome.is_complete and outcome.total.rows == 15 and len(CaptionTSV(out / "data.yaml")) == 15


@pytest.mark.parametrize("method", ["write", "skip"])
def test_a_lost_pair_is_noticed(tmp_path, monkeypatch, method):
    path = write_json_lines(tmp_path)
    (tmp_path / "1.png").unlink()
    monkeypatch.setattr(ShardWriter, method, lambda *arguments: None)
    with pytest.raises(AssertionError, match="2 pairs were read, but"):
        run(path, tmp_path / "out")
    assert not list((tmp_path / "out" / "shards").iterdir())


def test_shards_labelled_twice_or_never_are_noticed(tmp_path):
    shards = find_shards([str(write_json_lines(tmp_path))], None, 2)
    done = pseudo_label_run._Done
    for processes in ([done(["pairs-00000"], {})], [done([shard.name for shard in shards], {})] * 2):
        with pytest.raises(AssertionError, match="3 shards were shared out, but"):
            pseudo_label_run._assert_once(shards, processes)


@pytest.mark.slow
def test_the_program(tmp_path):
    write_json_lines(tmp_path, ["a red star"])
    command = [sys.executable, str(Path(__file__).parents[3] / "tools" / "pseudo_label.py")]
    arguments = ["--pairs", str(tmp_path / "pairs.jsonl"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    found = subprocess.run([*command, *arguments, "--min-boxes", "0"], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "pairs           1" in found.stdout and "written to" in found.stdout
    assert len(CaptionTSV(tmp_path / "out" / "data.yaml")) == 1
