"""The names of the precisions of inference, for command lines, which start without PyTorch."""

PRECISION_NAMES = ("fp16", "bf16", "tf32", "fp32")

DEFAULT_PRECISION = "fp16"
"""Of inference on a GPU by the command line and `Detector`: the published weights were trained with fp16 products."""
