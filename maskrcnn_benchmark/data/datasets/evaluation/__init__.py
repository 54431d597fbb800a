"""Historical import path of the evaluation."""

from maskrcnn_benchmark.evaluation.dispatch import evaluate

__all__ = ["evaluate"]
