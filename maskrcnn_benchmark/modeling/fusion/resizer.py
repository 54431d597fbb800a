"""Projects text features to another width."""

from torch import Tensor, nn


class FeatureResizer(nn.Module):
    """Linear, LayerNorm (eps 1e-12), dropout: (..., in_features) -> (..., out_features)."""

    def __init__(self, in_features: int, out_features: int, dropout: float = 0.1):
        super().__init__()
        self.fc = nn.Linear(in_features, out_features)
        self.layer_norm = nn.LayerNorm(out_features, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.layer_norm(self.fc(x)))
