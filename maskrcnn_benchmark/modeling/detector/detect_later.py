"""Detections that are fetched later, so that a GPU has its next batch before the last one is dealt with."""

from collections.abc import Callable

from maskrcnn_benchmark.modeling.detector.generalized_vl_rcnn import FeaturePyramid, GeneralizedVLRCNN
from maskrcnn_benchmark.modeling.language_backbone import TextFeatures
from maskrcnn_benchmark.modeling.postprocess.token_scores import TokenMap
from maskrcnn_benchmark.structures.bounding_box import BoxList


def detect_later(
    model: GeneralizedVLRCNN, features: FeaturePyramid, text: TextFeatures, positive_map: TokenMap
) -> Callable[[], list[BoxList]]:
    """As `model.detect` for one text per image. The call of what is returned has the boxes, on the CPU.

    Where inference is accelerated this returns as soon as the GPU knows what to do. Elsewhere it computes.
    """
    started = model.start_detection(features, features.text or text, positive_map)
    if started is None:
        found = [boxes.to("cpu") for boxes in model.detect(features, text, positive_map)]
        return lambda: found
    return started.boxes_later()
