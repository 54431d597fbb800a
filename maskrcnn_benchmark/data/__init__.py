"""Datasets, transforms, samplers and loaders."""

from maskrcnn_benchmark.data.build import make_data_loader

__all__ = ["make_data_loader"]
