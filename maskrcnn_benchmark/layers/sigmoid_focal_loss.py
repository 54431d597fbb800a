"""Modules around the focal losses; mind the order of their arguments, which is the original's."""

from __future__ import annotations

from torch import Tensor, nn

from maskrcnn_benchmark.ops.sigmoid_focal_loss import sigmoid_focal_loss, token_sigmoid_focal_loss


class SigmoidFocalLoss(nn.Module):
    """Summed focal loss with class labels; constructed from (gamma, alpha)."""

    def __init__(self, gamma: float, alpha: float):
        super().__init__()
        self.gamma, self.alpha = gamma, alpha

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """logits (N, C), targets (N,) with 0 for background and -1 for ignored -> scalar."""
        return sigmoid_focal_loss(logits, targets, self.gamma, self.alpha).sum()

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}, alpha={self.alpha}"


class TokenSigmoidFocalLoss(nn.Module):
    """Summed focal loss with a target per token; constructed from (alpha, gamma)."""

    VERSION = "binary"  # the only form that any configuration of the original calls

    def __init__(self, alpha: float, gamma: float):
        super().__init__()
        self.alpha, self.gamma = alpha, gamma

    def forward(
        self, logits: Tensor, targets: Tensor, text_masks: Tensor | None = None, version: str = VERSION
    ) -> Tensor:
        """logits and targets (B, N, T), text_masks (B, T) -> scalar. Raises: ValueError for another version."""
        if version != self.VERSION:
            raise ValueError(f"version={version!r} of the token focal loss is not implemented; use {self.VERSION!r}")
        return token_sigmoid_focal_loss(logits, targets, text_masks, self.alpha, self.gamma)

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}, alpha={self.alpha}"
