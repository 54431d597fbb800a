"""Historical import path of `maskrcnn_benchmark.solver.ema`."""

from maskrcnn_benchmark.solver.ema import ModelEma

__all__ = ["ModelEma"]
