"""Loss of masked language modelling."""

import torch.nn.functional as F
from torch import Tensor


def masked_word_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """logits (B, T, V), labels (B, T), -100 = not scored -> mean cross-entropy in fp32 (0 if nothing is scored)."""
    scored = labels != -100
    total = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100, reduction="sum")
    return total / scored.sum().clamp(min=1)
