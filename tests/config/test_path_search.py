import os

import pytest

from maskrcnn_benchmark.config import path_search, try_to_find


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    """A working directory without data, and no repository to fall back to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATASET", raising=False)
    monkeypatch.setattr(path_search, "REPOSITORY_ROOT", tmp_path / "repository")
    return tmp_path


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("", encoding="utf-8")


def test_nothing_found_names_file_and_roots(empty_folder):
    """Seed row 27, whose text continues with an exit; here it is an exception."""
    with pytest.raises(FileNotFoundError) as raised:
        try_to_find("coco/annotations/instances_val2017.json")
    assert str(raised.value).startswith(
        "Cannot find coco/annotations/instances_val2017.json in ['./', './DATASET', './OUTPUT', './data', './MODEL']"
    )
    assert "environment variable DATASET" in str(raised.value)
    assert f"working directory, {empty_folder}, then from {empty_folder / 'repository'}" in str(raised.value)


def test_order_of_the_roots(empty_folder, monkeypatch):
    """Seed row 4: the environment variable is a root of its own."""
    monkeypatch.setenv("DATASET", os.pathsep.join([str(empty_folder / "disk1"), str(empty_folder / "disk2")]))
    roots = ["MODEL", "data", "OUTPUT", "DATASET", "disk2", "disk1", "."]
    for root in roots:
        touch(empty_folder / root / "a/b.json")
        found = try_to_find("a/b.json")
        assert os.path.samefile(found, empty_folder / root / "a/b.json")
        assert os.path.samefile(try_to_find("a/b.json", return_dir=True), empty_folder / root)
    assert try_to_find("a/b.json") == "./a/b.json"


def test_coco_may_lie_in_the_project_root(empty_folder):
    """Seed row 48."""
    touch(empty_folder / "coco/annotations/instances_val2017.json")
    assert try_to_find("coco/annotations/instances_val2017.json") == "./coco/annotations/instances_val2017.json"
    assert try_to_find("coco") == "./coco"


def test_links_are_followed(empty_folder):
    """Seed row 28: annotations and pictures linked into ./DATASET/coco."""
    touch(empty_folder / "disk/instances_val2017.json")
    (empty_folder / "DATASET/coco").mkdir(parents=True)
    (empty_folder / "DATASET/coco/annotations").symlink_to(empty_folder / "disk")
    assert os.path.isfile(try_to_find("coco/annotations/instances_val2017.json"))


def test_other_working_directory_falls_back_to_the_repository(empty_folder):
    touch(empty_folder / "repository/MODEL/weights.pth")
    found = try_to_find("weights.pth")
    assert os.path.samefile(found, empty_folder / "repository/MODEL/weights.pth")


def test_values_that_are_not_searched(empty_folder):
    assert try_to_find("") == ""
    assert try_to_find("catalog://ImageNet/R-50") == "catalog://ImageNet/R-50"
    touch(empty_folder / "elsewhere/x.json")
    assert try_to_find(str(empty_folder / "elsewhere/x.json")) == str(empty_folder / "elsewhere/x.json")


def test_an_absolute_path_is_not_looked_up_elsewhere(empty_folder):
    with pytest.raises(FileNotFoundError, match="an absolute path") as raised:
        try_to_find(str(empty_folder / "coco/x.json"))
    assert "DATASET" not in str(raised.value)


def test_own_search_path(empty_folder):
    touch(empty_folder / "mine/x.json")
    assert try_to_find("x.json", search_path=["./mine"]) == "./mine/x.json"
    with pytest.raises(FileNotFoundError, match=r"in \['./', './other'\]"):
        try_to_find("x.json", search_path=["./other"])


def test_a_root_one_level_too_deep_is_pointed_out(empty_folder, monkeypatch):
    touch(empty_folder / "disk/coco/annotations/instances_val2017.json")
    monkeypatch.setenv("DATASET", str(empty_folder / "disk/coco"))
    with pytest.raises(FileNotFoundError, match="the root must be the folder above 'coco'"):
        try_to_find("coco/annotations/instances_val2017.json")
