"""The transforms that a configuration asks for."""

from maskrcnn_benchmark.data.transforms.transforms import Compose, Normalize, RandomHorizontalFlip, Resize, ToTensor


def image_format(cfg) -> str:
    """INPUT.FORMAT where it is set, otherwise "bgr255" or "rgb" by INPUT.TO_BGR255."""
    if cfg.INPUT.FORMAT:
        return cfg.INPUT.FORMAT
    return "bgr255" if cfg.INPUT.TO_BGR255 else "rgb"


def build_transforms(cfg, is_train: bool = True) -> Compose:
    """Resize, RandomHorizontalFlip (never at test time), ToTensor, Normalize."""
    if is_train:
        min_size = cfg.AUGMENT.MULT_MIN_SIZE_TRAIN or cfg.INPUT.MIN_SIZE_TRAIN
        max_size = cfg.INPUT.MAX_SIZE_TRAIN
        flip_probability = cfg.AUGMENT.FLIP_PROB_TRAIN
    else:
        min_size = cfg.INPUT.MIN_SIZE_TEST
        max_size = cfg.INPUT.MAX_SIZE_TEST
        flip_probability = 0.0
    return Compose(
        [
            Resize(min_size, max_size, restrict=cfg.INPUT.FIX_RES),
            RandomHorizontalFlip(flip_probability),
            ToTensor(),
            Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD, format=image_format(cfg)),
        ]
    )
