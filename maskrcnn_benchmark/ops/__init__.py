"""Operators: documented functions with one behaviour on every device."""

from maskrcnn_benchmark.ops.deform_conv import deform_conv2d
from maskrcnn_benchmark.ops.nms import ml_nms, nms, soft_nms
from maskrcnn_benchmark.ops.roi_align import roi_align, roi_pool
from maskrcnn_benchmark.ops.sigmoid_focal_loss import sigmoid_focal_loss, token_sigmoid_focal_loss

__all__ = [
    "deform_conv2d",
    "ml_nms",
    "nms",
    "roi_align",
    "roi_pool",
    "sigmoid_focal_loss",
    "soft_nms",
    "token_sigmoid_focal_loss",
]
