"""Historical import path of PASCAL VOC's figures."""

from maskrcnn_benchmark.evaluation.voc import eval_detection_voc

__all__ = ["eval_detection_voc"]
