"""Whole detectors: `build_detection_model(cfg)`."""

from maskrcnn_benchmark.modeling.registry import META_ARCHITECTURES

from .features import FeaturePyramid
from .generalized_vl_rcnn import GeneralizedVLRCNN
from .stochasticity import disable_stochasticity


def build_detection_model(cfg) -> GeneralizedVLRCNN:
    """The detector that MODEL.META_ARCHITECTURE names, with fresh weights. Raises: KeyError that lists what exists."""
    return META_ARCHITECTURES[cfg.MODEL.META_ARCHITECTURE](cfg)


__all__ = ["FeaturePyramid", "GeneralizedVLRCNN", "build_detection_model", "disable_stochasticity"]
