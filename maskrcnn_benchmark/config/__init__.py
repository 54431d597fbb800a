"""Configuration: the process-wide tree `cfg`, and the search for data and weight files."""

from maskrcnn_benchmark.config.defaults import _C as cfg
from maskrcnn_benchmark.config.loading import CfgNode, ConfigError, ConfigFileError, UnknownKeyError
from maskrcnn_benchmark.config.path_search import try_to_find

__all__ = ["CfgNode", "ConfigError", "ConfigFileError", "UnknownKeyError", "cfg", "default_config", "try_to_find"]

_DEFAULTS = cfg.clone()


def default_config() -> CfgNode:
    """A new tree with the defaults, whatever has been merged into the process-wide `cfg`."""
    return _DEFAULTS.clone()
