"""The anchors that train boxes, at a number of places that does not depend on how many there are."""

import torch

from maskrcnn_benchmark.modeling.rpn.targets import Positives


def test_places_beyond_the_last_anchor_are_empty():
    mask = torch.tensor([[False, True, False], [True, False, True]])
    positives = Positives.find(mask, 5)
    assert positives.index.tolist() == [1, 3, 5, 0, 0]
    assert positives.is_real.tolist() == [True, True, True, False, False]
    values = torch.arange(12.0).view(2, 3, 2)
    assert positives.look_up(values).tolist() == [[2, 3], [6, 7], [10, 11], [0, 0], [0, 0]]


def test_there_are_never_more_places_than_anchors():
    assert len(Positives.find(torch.ones(2, 3, dtype=torch.bool), 100).index) == 6
    assert len(Positives.find(torch.ones(2, 3, dtype=torch.bool), 0).index) == 0


def test_what_an_empty_place_reads_reaches_neither_value_nor_gradient():
    values = torch.full((1, 2), torch.inf).requires_grad_()
    positives = Positives.find(torch.tensor([[False, True]]), 2)
    chosen = positives.look_up(values * torch.tensor([torch.nan, 1.0]))
    assert chosen.tolist() == [torch.inf, 0]
    finite = torch.tensor([[torch.nan, 3.0]], requires_grad=True)
    positives.look_up(finite).sum().backward()
    assert finite.grad.tolist() == [[0, 1]]
