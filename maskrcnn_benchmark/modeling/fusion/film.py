"""Feature-wise linear modulation of the image by the pooled text ("FILM", arXiv:1709.07871)."""

import torch
from torch import Tensor, nn

from .state import TowerState

NUM_COORDS = 8


def coordinate_map(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(1, 8, height, width) position features.

    As in the original the row goes with the width and both are scaled by the other side's length.
    """
    row = torch.arange(height, device=device, dtype=dtype)[:, None].expand(height, width)
    col = torch.arange(width, device=device, dtype=dtype)[None, :].expand(height, width)
    left, top = (2 * row - width) / width, (2 * col - height) / height
    right, bottom = (2 * (row + 1) - width) / width, (2 * (col + 1) - height) / height
    ones = torch.ones_like(left)
    channels = [left, top, right, bottom, (left + right) / 2, (top + bottom) / 2, ones / height, ones / width]
    return torch.stack(channels)[None]


class FilmFusion(nn.Module):
    """Scales and shifts every level by functions of the pooled text; the text stays as it is.

    Args: v_dim, l_dim: widths of image and text; out_dim: width of the result; num_levels: how many levels.
    """

    def __init__(self, v_dim: int, l_dim: int, out_dim: int, *, num_levels: int = 5, dropout: float = 0.1):
        super().__init__()
        wide = v_dim + NUM_COORDS
        self.mapping_lang = nn.Sequential(
            nn.Linear(l_dim, v_dim),
            nn.BatchNorm1d(v_dim),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(v_dim, v_dim),
            nn.BatchNorm1d(v_dim),
            nn.ReLU(),
        )
        self.joint_fusion = nn.ModuleList(
            nn.Sequential(nn.Conv2d(wide, out_dim, 1), nn.BatchNorm2d(out_dim), nn.ReLU()) for _ in range(num_levels)
        )
        self.gamma = nn.ModuleList(nn.Linear(v_dim, wide) for _ in range(num_levels))
        self.beta = nn.ModuleList(nn.Linear(v_dim, wide) for _ in range(num_levels))

    def forward(self, state: TowerState) -> TowerState:
        text = self.mapping_lang(state.aggregate)
        visual = []
        for level, gamma, beta, fuse in zip(state.visual, self.gamma, self.beta, self.joint_fusion, strict=True):
            coords = coordinate_map(*level.shape[-2:], level.device, level.dtype).expand(len(level), -1, -1, -1)
            scale, shift = gamma(text).tanh()[..., None, None], beta(text).tanh()[..., None, None]
            visual.append(fuse(torch.relu(scale * torch.cat([level, coords], 1) + shift)))
        return state._replace(visual=visual)
