"""Figures of merit: each evaluator collects predictions item by item."""

from maskrcnn_benchmark.evaluation.base import Evaluator
from maskrcnn_benchmark.evaluation.coco import CocoEvaluator, COCOResults
from maskrcnn_benchmark.evaluation.lvis import LvisEvaluator
from maskrcnn_benchmark.evaluation.lvis_annotations import LVIS
from maskrcnn_benchmark.evaluation.phrase_recall import PhraseRecall

__all__ = ["COCOResults", "LVIS", "CocoEvaluator", "Evaluator", "LvisEvaluator", "PhraseRecall"]
