"""Historical import path of COCO's figures."""

from maskrcnn_benchmark.evaluation.coco import COCOResults
from maskrcnn_benchmark.evaluation.expected_results import check_expected_results

__all__ = ["COCOResults", "check_expected_results"]
