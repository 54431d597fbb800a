"""Historical import path of `maskrcnn_benchmark.utils.dist`."""

from maskrcnn_benchmark.utils.dist import *  # noqa: F403
from maskrcnn_benchmark.utils.dist import __all__ as __all__
