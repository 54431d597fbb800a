"""Historical import path of the LVIS evaluation."""

from maskrcnn_benchmark.evaluation.lvis_fixed_ap import LvisEvaluatorFixedAP

__all__ = ["LvisEvaluatorFixedAP"]
