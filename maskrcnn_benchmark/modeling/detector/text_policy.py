"""How captions become tokens."""

from typing import NamedTuple


class TextPolicy(NamedTuple):
    """How captions become tokens: length limit and padding (see MODEL.LANGUAGE_BACKBONE).

    Attributes:
        max_length: number of tokens at most; pad_max: pad to it; trim: pad to the longest caption at inference instead.
        mask_special: mask [CLS], [SEP] and padding; one_hot_classes: mask all but so many columns (0: off).
    """

    max_length: int = 256
    pad_max: bool = True
    trim: bool = True
    mask_special: bool = False
    one_hot_classes: int = 0

    @classmethod
    def from_config(cls, cfg) -> "TextPolicy":
        language = cfg.MODEL.LANGUAGE_BACKBONE
        exact = language.MODEL_TYPE != "clip" and "vl" not in cfg.MODEL.SWINT.VERSION and not cfg.DATASETS.ONE_HOT
        exact = exact and cfg.MODEL.DYHEAD.SCORE_AGG != "ONEHOT"  # its labels may count positions of padding
        return cls(
            max_length=language.MAX_QUERY_LEN,
            pad_max=language.PAD_MAX,
            trim=language.TRIM_PADDING and exact,
            mask_special=language.MASK_SPECIAL,
            one_hot_classes=cfg.MODEL.DYHEAD.NUM_CLASSES if cfg.DATASETS.ONE_HOT else 0,
        )
