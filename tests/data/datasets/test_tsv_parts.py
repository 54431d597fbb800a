"""Several TSV files as one."""

import os
import pickle

import pytest
from tsv_files import write_tsv, write_tsv_dataset

from maskrcnn_benchmark.data.datasets import tsv_parts
from maskrcnn_benchmark.data.datasets.tsv_parts import TSVParts
from maskrcnn_benchmark.data.datasets.tsv_rows import TSVRows, read_descriptor


def descriptors() -> list[str]:
    return [number for number in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{number}")]


def parts(folder) -> TSVParts:
    """Files of 2, 0, 1 and 3 rows, numbered from 0 on."""
    paths, row = [], 0
    for number, count in enumerate((2, 0, 1, 3)):
        rows = [(f"key{row + i}", "x" * (row + i)) for i in range(count)]
        paths.append(str(write_tsv(folder / f"{number}.tsv", rows)))
        row += count
    return TSVParts(paths)


def test_rows_in_order(tmp_path):
    rows = parts(tmp_path)
    assert len(rows) == rows.num_rows() == 6
    for row in range(6):
        assert rows.key(row) == f"key{row}" and rows.cells(row) == [f"key{row}".encode(), b"x" * row]
    for row in (-1, 6):
        with pytest.raises(IndexError, match=rf"row {row} of .*0.tsv and 3 more parts, which have 6 rows"):
            rows.cells(row)


def test_few_files_are_open(tmp_path, monkeypatch):
    monkeypatch.setattr(tsv_parts, "OPEN_PARTS", 2)
    rows = parts(tmp_path)
    for row in (0, 2, 3, 0, 4, 1, 5, 2):
        assert rows.key(row) == f"key{row}"
        links = [os.readlink(f"/proc/self/fd/{number}") for number in descriptors()]
        assert len({link for link in links if link.startswith(str(tmp_path))}) <= 2


def test_copies_read_too(tmp_path):
    rows = parts(tmp_path)
    rows.key(0)
    assert pickle.loads(pickle.dumps(rows)).key(5) == "key5"


def test_a_dataset_in_parts(tmp_path):
    for number, keys in enumerate(("ab", "c")):
        (tmp_path / str(number)).mkdir()
        write_tsv_dataset(tmp_path / str(number), {key: {"caption": key} for key in keys})
    (tmp_path / "data.yaml").write_text(
        "img: [0/images.tsv, 1/images.tsv]\nlabel: [0/raw_label.tsv, 1/raw_label.tsv]\n"
    )
    rows = TSVRows(tmp_path / "data.yaml")
    assert [rows.label(i)["caption"] for i in range(len(rows))] == ["a", "b", "c"]
    assert [rows.image(i).getpixel((0, 0))[0] for i in range(3)] == [0, 10, 0] and rows.size(2) == (80, 100)


def test_wrong_lists_are_named(tmp_path):
    write_tsv_dataset(tmp_path, {"a": {}})
    path = tmp_path / "data.yaml"
    path.write_text("img: [images.tsv, none.tsv]\n")
    with pytest.raises(FileNotFoundError, match=r"img file of .*data.yaml does not exist: tried none.tsv"):
        read_descriptor(path)
    path.write_text("img: images.tsv\nlinelist: [a, b]\n")
    with pytest.raises(ValueError, match=r"linelist of .* must be the name of a file, not \['a', 'b'\]"):
        read_descriptor(path)
