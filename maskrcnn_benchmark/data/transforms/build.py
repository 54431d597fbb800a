"""The transforms that a configuration asks for."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

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

    Raises: ValueError, with the key, for a value that a transform refuses.
    """
    before: list[Transform] = []
    after: list[Transform] = []
    if is_train:
        size_key = "AUGMENT.MULT_MIN_SIZE_TRAIN" if cfg.AUGMENT.MULT_MIN_SIZE_TRAIN else "INPUT.MIN_SIZE_TRAIN"
        min_size = cfg.AUGMENT.MULT_MIN_SIZE_TRAIN or cfg.INPUT.MIN_SIZE_TRAIN
        max_size, max_size_key = cfg.INPUT.MAX_SIZE_TRAIN, "INPUT.MAX_SIZE_TRAIN"
        flip_probability = cfg.AUGMENT.FLIP_PROB_TRAIN
        before, after = _extended(cfg.AUGMENT)
    else:
        size_key = "INPUT.MIN_SIZE_TEST"
        min_size = cfg.INPUT.MIN_SIZE_TEST
        max_size, max_size_key = cfg.INPUT.MAX_SIZE_TEST, "INPUT.MAX_SIZE_TEST"
        flip_probability = 0.0
    with _from_key(f"{size_key} and {max_size_key}"):
        resize = Resize(min_size, max_size, restrict=cfg.INPUT.FIX_RES)
    with _from_key("AUGMENT.FLIP_PROB_TRAIN"):
        flip = RandomHorizontalFlip(flip_probability)
    with _from_key("INPUT.PIXEL_MEAN and PIXEL_STD"):
        normalize = Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD, format=image_format(cfg))
    return Compose([*before, resize, flip, *after, ToTensor(), normalize])


@contextmanager
def _from_key(key: str) -> Iterator[None]:
    """Within the block, what a transform says of a value comes with the key that it is from."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


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
    if augment.CROP_PROB != 0:
        with _from_key("AUGMENT.CROP_PROB, CROP_MIN_IOUS and CROP_MIN_SIZE"):
            before.append(RandomCrop(augment.CROP_PROB, augment.CROP_MIN_IOUS, augment.CROP_MIN_SIZE))
    if augment.VERTICAL_FLIP_PROB_TRAIN != 0:
        with _from_key("AUGMENT.VERTICAL_FLIP_PROB_TRAIN"):
            after.append(RandomVerticalFlip(augment.VERTICAL_FLIP_PROB_TRAIN))
    strengths = (augment.BRIGHTNESS, augment.CONTRAST, augment.SATURATION, augment.HUE)
    if any(strengths):
        with _from_key("AUGMENT"):
            after.append(ColorJitter(*strengths))
    return before, after
