"""Registries that map the names of configuration files to builders."""

from maskrcnn_benchmark.utils.registry import Registry

BACKBONES = Registry(kind="backbone (MODEL.BACKBONE.CONV_BODY)")
LANGUAGE_BACKBONES = Registry(kind="text encoder (MODEL.LANGUAGE_BACKBONE.MODEL_TYPE)")
RPN_HEADS = Registry(kind="detection head (MODEL.RPN_ARCHITECTURE)")
META_ARCHITECTURES = Registry(kind="detector (MODEL.META_ARCHITECTURE)")
