"""Rows of TSV files, their index, and the files of a dataset that belong together."""

import json
import os
import pickle

import numpy as np
import pytest
from tsv_files import detection_labels, write_detection_tsv, write_tsv, write_tsv_dataset

from maskrcnn_benchmark.data.datasets.tsv_file import TSVFile, find_row_offsets
from maskrcnn_benchmark.data.datasets.tsv_rows import TSVRows, parse_size, read_descriptor, read_label_map


def test_rows_are_read_by_number(tmp_path):
    rows = [("a", "1", "x y "), ("b" * 2000, "", "z")]
    file = TSVFile(write_tsv(tmp_path / "t.tsv", rows))
    assert len(file) == file.num_rows() == 2
    assert file[0] == file.seek(0) == ["a", "1", "x y"] and file[1] == ["b" * 2000, "", "z"]
    assert [file.key(0), file.get_key(1)] == ["a", "b" * 2000]
    with pytest.raises(IndexError, match="row 2"):
        file[2]


@pytest.mark.parametrize("ending", [b"\n", b"", b"\r\n"])
def test_missing_index_is_made(tmp_path, ending):
    path = tmp_path / "t.tsv"
    path.write_bytes(b"a\t1\n\nc\t3" + ending)
    assert TSVFile(path)[2] == ["c", "3"]
    assert (tmp_path / "t.lineidx").read_text().split() == ["0", "4", "5"]
    assert TSVFile(path)[1] == [""]


def test_offsets_across_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("maskrcnn_benchmark.data.datasets.tsv_file._CHUNK", 3)
    path = tmp_path / "t.tsv"
    path.write_bytes(b"ab\nc\n\nlong row\n")
    assert find_row_offsets(path).tolist() == [0, 3, 5, 6]


def test_empty_file_has_no_rows(tmp_path):
    assert len(TSVFile(write_tsv(tmp_path / "t.tsv", []))) == 0


@pytest.mark.parametrize("index", ["0\n", "0\n3\n6\n", "0\n4\n99\n", "0\nx\n", "4\n8\n", ""])
def test_index_of_another_file_is_an_error(tmp_path, index):
    path = write_tsv(tmp_path / "t.tsv", [("a", "1"), ("b", "2"), ("c", "3")])
    (tmp_path / "t.lineidx").write_text(index)
    with pytest.raises(ValueError, match=r"t\.lineidx"):
        TSVFile(path)


def test_forked_and_copied_readers_do_not_disturb_each_other(tmp_path):
    file = TSVFile(write_tsv(tmp_path / "t.tsv", [(str(i), "x" * i) for i in range(50)]))
    assert file[3] == ["3", "xxx"]
    child = os.fork()
    if child == 0:
        is_right = all(file[i] == [str(i), "x" * i] for i in range(50))
        os._exit(0 if is_right else 1)
    assert all(file[i][0] == str(i) for i in reversed(range(50)))
    assert os.waitpid(child, 0)[1] == 0
    assert pickle.loads(pickle.dumps(file))[7] == file[7]


def test_cells_cannot_break_the_table(tmp_path):
    with pytest.raises(ValueError, match="tabs"):
        write_tsv(tmp_path / "t.tsv", [("a\tb", "c")])
    assert not (tmp_path / "t.lineidx").exists()


def test_items_of_a_dataset(tmp_path):
    rows = TSVRows(write_detection_tsv(tmp_path))
    assert len(rows) == 3 and [rows.key(i) for i in range(3)] == ["7", "8", "9"]
    assert rows.label(2) == [] and rows.image(1).getpixel((0, 0))[0] == 10
    assert rows.size(0) == (80, 100), "from the picture"


def test_line_list_repeats_and_reorders(tmp_path):
    (tmp_path / "list.tsv").write_text("2\n0\n2\n")
    rows = TSVRows(write_detection_tsv(tmp_path, linelist="list.tsv"))
    assert [rows.key(i) for i in range(len(rows))] == ["9", "7", "9"] and rows.image(0).getpixel((0, 0))[0] == 20
    (tmp_path / "list.tsv").write_text("3\n")
    with pytest.raises(ValueError, match="row 3"):
        TSVRows(tmp_path / "data.yaml")


def test_pictures_in_another_order_are_found_by_their_keys(tmp_path):
    rows = TSVRows(write_detection_tsv(tmp_path, image_keys=["9", "extra", "7", "8"]))
    assert [rows.image(i).getpixel((0, 0))[0] for i in range(3)] == [0, 10, 20]
    with pytest.raises(ValueError, match="1 of 3 labels .* no picture, the first '8'"):
        TSVRows(write_detection_tsv(tmp_path, image_keys=["9", "7", "other"]))


def test_keys_of_other_names_keep_the_order_of_the_rows(tmp_path, caplog):
    rows = TSVRows(write_detection_tsv(tmp_path, image_keys=["a", "b", "c"]))
    assert np.array_equal(rows.rows, [0, 1, 2]) and "no key in common" in caplog.text
    assert rows.image(1).size == (100, 80)


def test_image_ids_point_to_rows(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps({"one": 1, "two": 0}))
    labels = {"a": {"img_id": "two", "img_h": 80, "img_w": 100}, "b": {"img_id": "one", "img_h": 3, "img_w": 4}}
    rows = TSVRows(write_tsv_dataset(tmp_path, labels, image_keys=["b", "a"], imageid2idx="rows.json"))
    assert [rows.image(i).getpixel((0, 0))[0] for i in range(2)] == [10, 0]
    assert [rows.size(i) for i in range(2)] == [(80, 100), (3, 4)]


@pytest.mark.parametrize("cell", ['[{"height": 3, "width": 5}]', '{"height": 3, "width": 5}', "3 5", b"3 5"])
def test_sizes(cell):
    assert parse_size(cell) == (3, 5)


@pytest.mark.parametrize("cell", ["", "3", "[]", "{}", "a b", "[3]"])
def test_broken_size_is_shown(cell):
    with pytest.raises(ValueError, match="size"):
        parse_size(cell)


def test_label_maps(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"label_to_idx": {"cat": 4}}))
    assert list(read_label_map(path).items()) == [("cat", 4), ("__background__", 0)]
    path.write_text(json.dumps({"__background__": 0, "cat": 4}))
    assert list(read_label_map(path).items()) == [("__background__", 0), ("cat", 4)]
    path = tmp_path / "labels.tsv"
    path.write_text("cat\t12\ndog\n")
    assert read_label_map(path) == {"__background__": 0, "cat": 1, "dog": 2}
    path.write_text("cat\ncat\n")
    with pytest.raises(ValueError, match="2 classes, but only 1"):
        read_label_map(path)


def test_mistakes_are_named(tmp_path):
    path = write_tsv_dataset(tmp_path, detection_labels(), labelmap="missing.json")
    with pytest.raises(FileNotFoundError, match=r"labelmap .*missing\.json and .*missing\.json"):
        read_descriptor(path)
    path.write_text("label: x.tsv\n")
    with pytest.raises(ValueError, match="'img'"):
        read_descriptor(path)
    write_tsv(tmp_path / "images.tsv", [("7", "@@@"), ("8", "QUJD"), ("9", "QUJD")])
    rows = TSVRows(write_tsv_rows(tmp_path))
    with pytest.raises(ValueError, match=r"row 0 of .*images\.tsv is not base64"):
        rows.image(0)
    with pytest.raises(ValueError, match=r"cannot read image row 1 of .*images\.tsv"):
        rows.image(1)
    with pytest.raises(ValueError, match=r"row 2 of .*raw_label\.tsv is not JSON"):
        rows.label(2)


def write_tsv_rows(folder):
    """The descriptor of files that are there, the last label broken."""
    write_tsv(folder / "raw_label.tsv", [("7", "[]"), ("8", "[]"), ("9", "[")])
    path = folder / "data.yaml"
    path.write_text("img: images.tsv\nlabel: raw_label.tsv\n")
    return path
