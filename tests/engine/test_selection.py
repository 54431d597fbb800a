"""Which boxes are shown: threshold, one label for each box, the best of each label."""

import pytest
import torch

from maskrcnn_benchmark.engine.selection import Selection

#                        cup             dog, same box  cup, other     cup, same as the first
BOXES = torch.tensor([[0, 0, 99, 99], [2, 0, 99, 99], [200, 0, 250, 50], [0, 3, 99, 99]], dtype=torch.float32)
SCORES = torch.tensor([0.6, 0.8, 0.5, 0.7])
LABELS = torch.tensor([1, 2, 1, 1])


def chosen(selection: Selection, *, merge: bool = False) -> list[int]:
    return selection.indices(BOXES, SCORES, LABELS, overlap=0.6, merge=merge).tolist()


@pytest.mark.parametrize(
    ("selection", "merge", "expected"),
    [
        (Selection(0.0), False, [1, 3, 0, 2]),
        (Selection(0.6), False, [1, 3]),
        (Selection(0.0), True, [1, 3, 2]),
        (Selection(0.0, one_label=True), False, [1, 2]),
        (Selection(0.0, one_label=True), True, [1, 2]),
        (Selection(0.0, top=1), False, [1, 3]),
        (Selection(0.0, top=2), False, [1, 3, 0]),
        (Selection(0.0, one_label=True, top=1), False, [1, 2]),
        (Selection(0.9, one_label=True, top=1), True, []),
    ],
)
def test_chosen_boxes_the_best_first(selection, merge, expected):
    assert chosen(selection, merge=merge) == expected


@pytest.mark.parametrize("top", [0, -1])
def test_a_top_of_nothing(top):
    with pytest.raises(ValueError, match=f"top={top} is not a positive number"):
        Selection(0.5, top=top)
