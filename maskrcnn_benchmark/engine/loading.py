"""A model for inference: built from its configuration, filled from a checkpoint."""

from pathlib import Path

import torch
from torch import nn

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.utils.logger import only_errors


def load_model(cfg: CfgNode, weights: str | Path | None, device: torch.device) -> nn.Module:
    """The detector of ``cfg`` with ``weights`` (see ``load_weights``) on ``device``, in evaluation mode.

    Without weights it stays as it was built. Raises: FileNotFoundError, DownloadError, CheckpointError.
    """
    from maskrcnn_benchmark.modeling.detector import build_detection_model
    from maskrcnn_benchmark.utils.weight_conversion import load_weights

    if weights is None:
        return build_detection_model(cfg).to(device).eval()
    with only_errors("maskrcnn_benchmark.modeling.language_backbone"):  # the checkpoint brings the text weights
        model = build_detection_model(cfg)
    load_weights(model, weights)
    return model.to(device).eval()
