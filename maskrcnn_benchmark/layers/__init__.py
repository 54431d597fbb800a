"""Small reusable modules, and the operators under their historical names."""

from maskrcnn_benchmark.layers.batch_norm import FrozenBatchNorm2d, NaiveSyncBatchNorm2d
from maskrcnn_benchmark.layers.deform_conv import DeformConv, DFConv2d, ModulatedDeformConv, ModulatedDeformConvPack
from maskrcnn_benchmark.layers.drop_block import DropBlock2D
from maskrcnn_benchmark.layers.dyrelu import DYReLU, h_sigmoid
from maskrcnn_benchmark.layers.iou_loss import IOULoss
from maskrcnn_benchmark.layers.roi_align import ROIAlign, ROIAlignV2, ROIPool
from maskrcnn_benchmark.layers.scale import Scale
from maskrcnn_benchmark.layers.sigmoid_focal_loss import SigmoidFocalLoss, TokenSigmoidFocalLoss
from maskrcnn_benchmark.ops import ml_nms, nms, roi_align, roi_pool, soft_nms

__all__ = [
    "DFConv2d",
    "DYReLU",
    "DeformConv",
    "DropBlock2D",
    "FrozenBatchNorm2d",
    "IOULoss",
    "ModulatedDeformConv",
    "ModulatedDeformConvPack",
    "NaiveSyncBatchNorm2d",
    "ROIAlign",
    "ROIAlignV2",
    "ROIPool",
    "Scale",
    "SigmoidFocalLoss",
    "TokenSigmoidFocalLoss",
    "h_sigmoid",
    "ml_nms",
    "nms",
    "roi_align",
    "roi_pool",
    "soft_nms",
]
