"""The transforms that a configuration asks for."""

import logging

from maskrcnn_benchmark.config import default_config
from maskrcnn_benchmark.data.transforms.augment import ColorJitter, RandomCrop, RandomVerticalFlip
from maskrcnn_benchmark.data.transforms.transforms import (
    Compose,
    Normalize,
    RandomHorizontalFlip,
    Resize,
    ToTensor,
    Transform,
)

logger = logging.getLogger(__name__)

EXTENDED_KEYS = (
    "VERTICAL_FLIP_PROB_TRAIN", "BRIGHTNESS", "CONTRAST", "SATURATION", "HUE",
    "CROP_PROB", "CROP_MIN_IOUS", "CROP_MIN_SIZE",
)  # fmt: skip
"""Keys of AUGMENT that the original defines and ignores, and that AUGMENT.EXTENDED puts into effect."""


def image_format(cfg) -> str:
    """INPUT.FORMAT where it is set, otherwise "bgr255" or "rgb" by INPUT.TO_BGR255."""
    if cfg.INPUT.FORMAT:
        return cfg.INPUT.FORMAT
    return "bgr255" if cfg.INPUT.TO_BGR255 else "rgb"


def build_transforms(cfg, is_train: bool = True) -> Compose:
    """Resize, RandomHorizontalFlip (never at test time), ToTensor, Normalize.

    With AUGMENT.EXTENDED, training adds RandomCrop before them, RandomVerticalFlip and ColorJitter before ToTensor.
    """
    before: list[Transform] = []
    after: list[Transform] = []
    if is_train:
        min_size = cfg.AUGMENT.MULT_MIN_SIZE_TRAIN or cfg.INPUT.MIN_SIZE_TRAIN
        max_size = cfg.INPUT.MAX_SIZE_TRAIN
        flip_probability = cfg.AUGMENT.FLIP_PROB_TRAIN
        before, after = _extended(cfg.AUGMENT)
    else:
        min_size = cfg.INPUT.MIN_SIZE_TEST
        max_size = cfg.INPUT.MAX_SIZE_TEST
        flip_probability = 0.0
    return Compose(
        [
            *before,
            Resize(min_size, max_size, restrict=cfg.INPUT.FIX_RES),
            RandomHorizontalFlip(flip_probability),
            *after,
            ToTensor(),
            Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD, format=image_format(cfg)),
        ]
    )


def _extended(augment) -> tuple[list[Transform], list[Transform]]:
    """What AUGMENT.EXTENDED adds before the resizing and after the mirroring; parts of strength 0 are left out."""
    if not augment.EXTENDED:
        defaults = default_config().AUGMENT
        ignored = [f"AUGMENT.{key}" for key in EXTENDED_KEYS if augment[key] != defaults[key]]
        if ignored:
            logger.warning("%s without effect: set AUGMENT.EXTENDED to use them", ", ".join(ignored))
        return [], []
    before: list[Transform] = []
    after: list[Transform] = []
    if augment.CROP_PROB > 0:
        before.append(RandomCrop(augment.CROP_PROB, augment.CROP_MIN_IOUS, augment.CROP_MIN_SIZE))
    if augment.VERTICAL_FLIP_PROB_TRAIN > 0:
        after.append(RandomVerticalFlip(augment.VERTICAL_FLIP_PROB_TRAIN))
    strengths = (augment.BRIGHTNESS, augment.CONTRAST, augment.SATURATION, augment.HUE)
    if any(strengths):
        after.append(ColorJitter(*strengths))
    return before, after
