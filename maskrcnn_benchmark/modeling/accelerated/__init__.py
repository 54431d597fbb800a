"""Inference on a GPU: the same numbers as the plain modules, channels-last, fused and in one precision."""
