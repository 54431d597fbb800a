"""Historical import path of the recall on Flickr30k."""

from maskrcnn_benchmark.evaluation.flickr import FlickrEvaluator

__all__ = ["FlickrEvaluator"]
