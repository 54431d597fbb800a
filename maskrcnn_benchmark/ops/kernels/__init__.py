"""Triton kernels of accelerated inference, each beside its definition in plain PyTorch."""
