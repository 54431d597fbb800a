"""Configuration: the process-wide tree `cfg`, and the search for data and weight files."""

from maskrcnn_benchmark.config.defaults import _C as cfg
from maskrcnn_benchmark.config.loading import CfgNode, ConfigError, ConfigFileError, UnknownKeyError
from maskrcnn_benchmark.config.path_search import try_to_find

__all__ = ["CfgNode", "ConfigError", "ConfigFileError", "UnknownKeyError", "cfg", "try_to_find"]
