"""Dense heads: `build_rpn(cfg)`."""

from maskrcnn_benchmark.modeling.registry import RPN_HEADS

from . import vldyhead  # noqa: F401  registers VLDYHEAD


def build_rpn(cfg):
    """The head that MODEL.RPN_ARCHITECTURE names. Raises: KeyError that lists what exists."""
    return RPN_HEADS[cfg.MODEL.RPN_ARCHITECTURE](cfg)
