"""Batches of a test set over any number of processes."""

import pytest

from maskrcnn_benchmark.data.samplers.evaluation import EvaluationBatches


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("items", [0, 1, 7, 16])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_item_once(processes, items, batch_size):
    ratios, pictures = [0.5 + item % 3 / 2 for item in range(items)], [item // 3 for item in range(items)]
    for options in (
        {},
        {"ratios": ratios},
        {"pictures": pictures},
        {"ratios": ratios, "by_ratio": True, "pictures": pictures},
    ):
        seen = [
            item
            for rank in range(processes)
            for batch in EvaluationBatches(items, batch_size, processes, rank, **options)
            for item in batch
        ]
        assert sorted(seen) == list(range(items))


def test_alike_shapes_share_batches_and_follow_each_other():
    ratios = [0.75, 1.3, 0.5, 0.75, 0.6, 1.0, 0.7]
    alike = {"ratios": ratios, "by_ratio": True}
    assert list(EvaluationBatches(7, 2, **alike)) == [[2, 4], [6, 0], [3], [5, 1]]
    assert list(EvaluationBatches(7, 2, **alike, limit=2)) == [[6, 0], [5, 1]], "the first pictures"
    assert [batch[0] for batch in EvaluationBatches(4, 1, ratios=[2, 0.5, 1, 0.6], by_ratio=True)] == [1, 3, 2, 0]


def test_orientations_do_not_mix_in_the_order_of_the_items():
    """The order of the original's test loaders."""
    ratios = [0.75, 1.3, 0.5, 0.75, 0.6, 1.0, 0.7]
    assert list(EvaluationBatches(7, 2, ratios=ratios)) == [[0, 2], [1, 5], [3, 4], [6]]
    assert list(EvaluationBatches(5, 2)) == [[0, 1], [2, 3], [4]]


def test_sentences_of_a_picture_stay_together():
    batches = EvaluationBatches(5, 2, pictures=["a", "b", "a", "c", "b"])
    assert list(batches) == [[0, 2, 1, 4], [3]]


def test_done_and_left_out_items_do_not_come():
    batches = [EvaluationBatches(9, 2, 2, rank) for rank in (0, 1)]
    for part in batches:
        part.leave_out([8])
        part.skip([0, 1, 5])
    assert [list(part) for part in batches] == [[[2, 3], [7]], [[4, 6]]]
    assert batches[0].items == list(range(8)) and batches[0].own_items == [2, 3, 7]


def test_limit_counts_what_was_done_before():
    batches = EvaluationBatches(9, 2, limit=2)
    assert list(batches) == [[0, 1], [2, 3]]
    batches.skip([0, 1, 2])
    assert list(batches) == [[3]]


@pytest.mark.parametrize(
    ("arguments", "message"), [((3, 0), "batch_size=0"), ((3, 1, 2, 2), r"rank=2 is not in \[0, num_replicas=2\)")]
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        EvaluationBatches(*arguments)
