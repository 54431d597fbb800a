"""Historical import path of the LVIS annotations."""

from maskrcnn_benchmark.evaluation.lvis_annotations import LVIS

__all__ = ["LVIS"]
