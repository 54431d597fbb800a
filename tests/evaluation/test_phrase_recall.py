"""Recall of phrases, on the two phrases whose figures are known."""

import pytest
import torch

from maskrcnn_benchmark.evaluation.phrase_recall import PhraseRecall, phrase_ground_truth, union_box

TWO_PEOPLE = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
ANIMAL = torch.tensor([[50.0, 50, 90, 90]])
DUMMY = [0.0, 0, 0, 0]
PREDICTIONS = [
    torch.tensor([[0.0, 0, 30, 10], [0, 0, 9, 10], DUMMY]),
    torch.tensor([[60.0, 60, 90, 90], [50, 50, 90, 80], DUMMY]),
]
TYPES = [["people"], ["animals", "other"]]


def test_any_box():
    recall = PhraseRecall()
    recall.update("1_0", PREDICTIONS, [TWO_PEOPLE, ANIMAL], TYPES)
    figures = recall.summarize()
    assert figures["Recall@1_all"] == 0.5
    assert (figures["Recall@1_people"], figures["Recall@1_animals"], figures["Recall@1_other"]) == (0.0, 1.0, 1.0)
    assert figures["Recall@5_all"] == figures["Recall@10_all"] == figures["Upper_bound_all"] == 1.0
    assert recall.num_phrases == 2


def test_merged_box():
    recall = PhraseRecall(merge_boxes=True)
    recall.update("1_0", PREDICTIONS, [TWO_PEOPLE, ANIMAL])
    assert union_box(TWO_PEOPLE).tolist() == [[0, 0, 30, 10]]
    assert recall.summarize()["Recall@1_all"] == 1.0


def test_repeated_sentence_counts_once_and_a_phrase_without_boxes_is_missed():
    recall = PhraseRecall()
    recall.update(1, [ANIMAL], [ANIMAL])
    recall.update(1, [torch.zeros(0, 4)], [ANIMAL])
    assert recall.summarize()["Recall@1_all"] == 1.0
    recall.update(2, [torch.zeros(0, 4)], [ANIMAL])
    assert recall.summarize()["Recall@1_all"] == 0.5
    recall.reset()
    assert recall.summarize() == {}


def test_number_of_phrases_must_agree():
    with pytest.raises(ValueError, match="sentence 7: predictions for 1 phrases, ground truth for 2"):
        PhraseRecall().update(7, [ANIMAL], [ANIMAL, ANIMAL])


@pytest.mark.parametrize(
    "found, is_right", [([0, 0, 5, 10], True), ([0, 0, 4.9, 10], False), ([0, 0, 5.1, 9.7], False)]
)
def test_ends_of_boxes_are_edges(found, is_right):
    recall = PhraseRecall([1])
    recall.update(1, [torch.tensor([found])], [TWO_PEOPLE[:1]])
    assert recall.summarize()["Recall@1_all"] == is_right


def test_a_box_without_area_is_never_right():
    recall = PhraseRecall([1])
    recall.update(1, [torch.tensor([DUMMY])], [torch.tensor([DUMMY])])
    assert recall.summarize()["Recall@1_all"] == 0.0


def test_ground_truth_of_phrases():
    record = {"id": 3, "tokens_positive_eval": [[[0, 7]], [[10, 20]]]}
    annotations = [
        {"bbox": [1, 2, 3, 4], "tokens_positive": [[10, 20]]},
        {"bbox": [5, 6, 7, 8], "tokens_positive": [[4, 7]]},
        {"bbox": [0, 0, 1, 1], "tokens_positive": [[10, 20]]},
    ]
    first, second = phrase_ground_truth(record, annotations)
    assert first.tolist() == [[5, 6, 12, 14]] and second.tolist() == [[1, 2, 4, 6], [0, 0, 1, 1]]
    nothing, only = phrase_ground_truth(record, annotations[:1])
    assert nothing.shape == (0, 4) and only.tolist() == [[1, 2, 4, 6]]


@pytest.mark.parametrize("merge_boxes", [False, True])
def test_phrase_without_a_thing_does_not_count(merge_boxes):
    recall = PhraseRecall(merge_boxes=merge_boxes)
    recall.update(1, [ANIMAL, ANIMAL], [torch.zeros(0, 4), ANIMAL], [["people"], ["animals"]])
    assert recall.num_phrases == 1 and recall.summarize()["Upper_bound_all"] == 1.0
    assert "Recall@1_people" not in recall.summarize()
