import pytest
import torch

from maskrcnn_benchmark.layers import ROIAlign, ROIAlignV2, ROIPool
from maskrcnn_benchmark.ops.roi_align import roi_align


@pytest.fixture
def ramp(device) -> torch.Tensor:
    """(1, 2, 8, 8): the column number and the row number."""
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    return torch.stack((x, y))[None].to(device)


def test_align_averages_and_the_second_version_shifts_by_half_a_cell(ramp):
    rois = torch.tensor([[0.0, 4, 4, 12, 8]], device=ramp.device)
    out = ROIAlign((1, 2), 0.5, 2)(ramp, rois)
    torch.testing.assert_close(out[0].cpu(), torch.tensor([[[3.0, 5.0]], [[3.0, 3.0]]]))
    out = ROIAlignV2((1, 2), 0.5, 2)(ramp, rois)
    torch.testing.assert_close(out[0].cpu(), torch.tensor([[[2.5, 4.5]], [[2.5, 2.5]]]))


def test_regions_smaller_than_a_cell_grow_only_in_the_first_version(ramp):
    rois = torch.tensor([[0.0, 4, 4, 4.4, 4.4]], device=ramp.device)
    assert ROIAlign((1, 1), 1.0, 1)(ramp, rois)[0, 0].item() == pytest.approx(4.5)
    assert ROIAlignV2((1, 1), 1.0, 1)(ramp, rois)[0, 0].item() == pytest.approx(3.7)


def test_pool_takes_the_maximum(ramp):
    rois = torch.tensor([[0.0, 1, 2, 4, 5]], device=ramp.device)
    out = ROIPool((2, 2), 1.0)(ramp, rois)
    assert out[0].tolist() == [[[2, 4], [2, 4]], [[3, 3], [5, 5]]]


def test_no_regions_and_wrong_shapes(ramp):
    assert ROIAlign((2, 2), 1.0, 0)(ramp, torch.zeros(0, 5, device=ramp.device)).shape == (0, 2, 2, 2)
    with pytest.raises(ValueError, match=r"\(R, 5\).*got \(3, 4\)"):
        roi_align(ramp, torch.zeros(3, 4, device=ramp.device), (1, 1), 1.0, 0)
    with pytest.raises(ValueError, match=r"\(B, C, H, W\), got \(2, 8, 8\)"):
        roi_align(ramp[0], torch.zeros(3, 5, device=ramp.device), (1, 1), 1.0, 0)
