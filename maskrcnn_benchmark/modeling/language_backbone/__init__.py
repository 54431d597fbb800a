"""Text encoders: `build_language_backbone(cfg)` gives token ids -> TextFeatures."""

from collections import OrderedDict

from torch import nn

from maskrcnn_benchmark.modeling.registry import LANGUAGE_BACKBONES
from maskrcnn_benchmark.text.tokenizer import build_tokenizer

from .clip import CLIPTransformer
from .features import TextFeatures
from .huggingface import BertEncoder, load_text_config

LANGUAGE_BACKBONES.register("clip", CLIPTransformer.from_config)
LANGUAGE_BACKBONES.register("bert-base-uncased", BertEncoder.from_config)
LANGUAGE_BACKBONES.register("roberta-base", BertEncoder.from_config)


def build_language_backbone(cfg) -> nn.Sequential:
    """The text encoder that MODEL.LANGUAGE_BACKBONE.MODEL_TYPE names, as the child `body`.

    Names that are not registered are folders or hub names of a BERT or RoBERTa. Raises: ValueError for anything else.
    """
    name = cfg.MODEL.LANGUAGE_BACKBONE.MODEL_TYPE
    if name == "rnn":
        raise ValueError(
            "MODEL.LANGUAGE_BACKBONE.MODEL_TYPE='rnn' never worked in the original and is not implemented; "
            f"known are {', '.join(sorted(LANGUAGE_BACKBONES))}, or a folder or hub name of a BERT or RoBERTa"
        )
    builder = LANGUAGE_BACKBONES[name] if name in LANGUAGE_BACKBONES else BertEncoder.from_config
    return nn.Sequential(OrderedDict(body=builder(cfg)))


__all__ = [
    "BertEncoder",
    "CLIPTransformer",
    "TextFeatures",
    "build_language_backbone",
    "build_tokenizer",
    "load_text_config",
]
