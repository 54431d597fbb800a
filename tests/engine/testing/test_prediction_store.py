"""Detections on disk: what comes back, after a stop too."""

from contextlib import closing

import pytest
import torch

from maskrcnn_benchmark.engine.testing.prediction_store import PATTERN, PredictionStore, open_store
from maskrcnn_benchmark.structures.bounding_box import BoxList


def boxes(number: int, count: int) -> BoxList:
    generator = torch.Generator().manual_seed(number)
    result = BoxList(torch.rand(count, 4, generator=generator) * 50, (60 + number, 50), mode="xyxy")
    result.add_field("scores", torch.rand(count, generator=generator))
    result.add_field("labels", torch.arange(count) + 1200)
    return result


def assert_equal(found: BoxList, wanted: BoxList) -> None:
    assert found.size == wanted.size and torch.equal(found.bbox, wanted.bbox)
    for field in ("scores", "labels"):
        assert torch.equal(found.get_field(field), wanted.get_field(field))


def test_what_is_put_in_comes_back_in_order(tmp_path):
    store = PredictionStore(tmp_path)
    for number, count in ((3, 4), (0, 0), (7, 1)):
        store.add(number, boxes(number, count))
    store.add(3, boxes(8, 2))  # a second time: ignored
    assert store.indices() == [0, 3, 7] and 3 in store and 4 not in store and len(store) == 3
    for (number, found), (wanted, count) in zip(store, ((0, 0), (3, 4), (7, 1)), strict=True):
        assert number == wanted
        assert_equal(found, boxes(wanted, count))
    store.add(9, BoxList([], (60, 50)))  # nothing found, and no fields
    assert_equal(store[9], boxes(0, 0))
    store.close()


@pytest.mark.parametrize("lost", [1, 10, 60])
def test_record_that_was_cut_short_is_dropped(tmp_path, lost):
    store = open_store(tmp_path / "store", {"model": 1}, resume=False)
    store.add(1, boxes(1, 3))
    store.add(2, boxes(2, 2))
    store.close()
    (path,) = (tmp_path / "store").glob(PATTERN)
    path.write_bytes(path.read_bytes()[:-lost])
    again = open_store(tmp_path / "store", {"model": 1}, resume=True)
    assert again.indices() == [1]
    again.add(2, boxes(5, 2))
    assert_equal(again[2], boxes(5, 2))
    assert_equal(again[1], boxes(1, 3))
    assert len(list((tmp_path / "store").glob(PATTERN))) == 2, "no file of an earlier process is written to"
    again.close()


def test_zeros_at_the_end_are_no_record(tmp_path):
    """As a loss of power leaves them: they would be item 0, without boxes, in a picture without size."""
    (tmp_path / "0000-0000.boxes").write_bytes(bytes(4096))
    with closing(PredictionStore(tmp_path)) as store:
        assert store.indices() == []


def test_another_evaluation_is_not_resumed(tmp_path):
    open_store(tmp_path / "store", {"model": 1, "data": "a"}, resume=False).close()
    with pytest.raises(ValueError, match="cannot be resumed, as it differs in data; leave --resume away"):
        open_store(tmp_path / "store", {"model": 1, "data": "b"}, resume=True)
    store = open_store(tmp_path / "store", {"model": 1, "data": "b"}, resume=False)
    assert len(store) == 0


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file"):
        open_store(tmp_path / "file" / "store", {}, resume=False)
