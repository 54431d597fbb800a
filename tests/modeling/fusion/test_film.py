"""Feature-wise modulation ("FILM") with the coordinates of the original, whose rows and columns are crossed."""

import pytest
import torch
from tiny_detector import scramble

from maskrcnn_benchmark.modeling.fusion import FilmFusion, TowerState
from maskrcnn_benchmark.modeling.fusion.film import coordinate_map


def test_coordinates_of_every_pixel():
    height, width = 3, 5
    coords = coordinate_map(height, width, torch.device("cpu"), torch.float64)
    assert coords.shape == (1, 8, height, width)
    for r in range(height):
        for c in range(width):
            left, top = (2 * r - width) / width, (2 * c - height) / height
            right, bottom = (2 * (r + 1) - width) / width, (2 * (c + 1) - height) / height
            middle = [(left + right) / 2, (top + bottom) / 2]
            expected = [left, top, right, bottom, *middle, 1 / height, 1 / width]
            assert coords[0, :, r, c].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("training", [False, True])
def test_equals_the_formula(training):
    torch.manual_seed(0)
    film = scramble(FilmFusion(6, 4, 7, num_levels=2, dropout=0.0), 0.5).double().train(training)
    levels = [torch.randn(3, 6, *size, dtype=torch.float64) for size in ((3, 5), (2, 2))]
    aggregate = torch.randn(3, 4, dtype=torch.float64)
    hidden = torch.randn(3, 2, 4, dtype=torch.float64)
    after = film(TowerState(levels, hidden, torch.ones(3, 2), aggregate))
    assert after.hidden is hidden
    linear1, norm1, _, _, linear2, norm2, _ = film.mapping_lang
    text = norm2(linear2(norm1(linear1(aggregate)).relu())).relu()
    for i, (level, fused) in enumerate(zip(levels, after.visual, strict=True)):
        coords = coordinate_map(*level.shape[-2:], level.device, level.dtype).repeat(3, 1, 1, 1)
        scale, shift = film.gamma[i](text).tanh(), film.beta[i](text).tanh()
        wide = scale[..., None, None] * torch.cat([level, coords], 1) + shift[..., None, None]
        conv, norm, _ = film.joint_fusion[i]
        torch.testing.assert_close(fused, norm(conv(wide.relu())).relu())
        assert fused.shape == (3, 7, *level.shape[-2:])
