"""Grounded Language-Image Pre-training (GLIP, arXiv:2112.03857) in PyTorch."""

__version__ = "0.1.0"
