import pytest
import torch

from maskrcnn_benchmark.layers import DropBlock2D, FrozenBatchNorm2d, IOULoss, NaiveSyncBatchNorm2d, Scale


def test_scale():
    layer = Scale(2.5)
    assert layer(torch.ones(3)).tolist() == [2.5] * 3
    assert layer.state_dict()["scale"].shape == (1,)


def test_drop_block_drops_whole_blocks_and_keeps_the_mean():
    torch.manual_seed(0)
    layer = DropBlock2D(0.3, 3).train()
    x = torch.ones(2, 4, 40, 40)
    y = layer(x)
    kept = y[:, 0] > 0
    assert 0.1 < 1 - kept.float().mean() < 0.35
    assert y.mean() == pytest.approx(1.0, abs=1e-4)
    assert torch.equal(y[:, 0], y[:, 3]) and not torch.equal(kept[0], kept[1])
    # Every dropped position lies in a dropped block of three by three, save at the border.
    for i, j in (~kept[0, 2:-2, 2:-2]).nonzero().tolist():
        i, j = i + 2, j + 2
        blocks = [kept[0, a : a + 3, b : b + 3] for a in range(i - 2, i + 1) for b in range(j - 2, j + 1)]
        assert any(not block.any() for block in blocks)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_drop_block_of_any_size_keeps_the_shape_and_repeats_with_the_seed(size):
    x = torch.randn(1, 2, 7, 9)
    layer = DropBlock2D(0.3, size)
    torch.manual_seed(3)
    first = layer(x)
    torch.manual_seed(3)
    assert first.shape == x.shape and torch.equal(first, layer(x))


def test_drop_block_is_the_identity_in_evaluation_and_without_probability():
    x = torch.randn(1, 2, 7, 9)
    assert DropBlock2D(0.3, 3).eval()(x) is x
    assert DropBlock2D(0.0, 3).train()(x) is x
    with pytest.raises(ValueError, match=r"got 1.5 and 3"):
        DropBlock2D(1.5, 3)


def test_drop_block_of_a_map_that_is_dropped_whole_is_finite():
    layer = DropBlock2D(0.99, 1)
    torch.manual_seed(0)
    assert layer(torch.ones(1, 1, 1, 1)).isfinite().all()


def test_frozen_batch_norm_has_no_epsilon_and_no_parameters():
    layer = FrozenBatchNorm2d(2)
    layer.running_var.copy_(torch.tensor([4.0, 1e-6]))
    layer.running_mean.copy_(torch.tensor([1.0, 0.0]))
    layer.weight.copy_(torch.tensor([3.0, 1.0]))
    layer.bias.copy_(torch.tensor([0.5, 0.0]))
    y = layer(torch.full((1, 2, 1, 1), 2.0)).flatten()
    torch.testing.assert_close(y, torch.tensor([2.0, 2000.0]))
    assert not list(layer.parameters())
    assert set(layer.state_dict()) == {"weight", "bias", "running_mean", "running_var"}


def test_sync_batch_norm_is_plain_on_one_rank():
    torch.manual_seed(0)
    sync, plain = NaiveSyncBatchNorm2d(3).train(), torch.nn.BatchNorm2d(3).train()
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(sync(x), plain(x))
    torch.testing.assert_close(sync.running_var, plain.running_var)


@pytest.mark.parametrize("kind", ["iou", "linear_iou", "giou"])
def test_iou_loss(kind):
    boxes = torch.tensor([[10.0, 10, 10, 10], [5, 5, 5, 5]])
    criterion = IOULoss(kind)
    assert criterion(boxes, boxes).item() == pytest.approx(0, abs=1e-6)
    other = torch.tensor([[10.0, 10, 0, 10], [5, 5, 5, 5]])
    assert criterion(boxes, other, torch.tensor([0.0, 1.0])).item() == pytest.approx(0, abs=1e-6)
    expected = 1 - 201 / 401  # the enclosing box is the union
    if kind == "iou":
        expected = -torch.tensor(201 / 401).log().item()
    assert criterion(boxes, other, torch.tensor([1.0, 0.0])).item() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="ciou.*iou, linear_iou, giou"):
        IOULoss("ciou")
