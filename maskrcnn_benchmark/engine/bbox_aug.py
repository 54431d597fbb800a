"""The historical entrance to test-time augmentation; new code uses `engine.tta`."""

from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import nn

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.config import cfg as global_config
from maskrcnn_benchmark.engine.finders import Item
from maskrcnn_benchmark.engine.tta import TestTimeAugmentation
from maskrcnn_benchmark.structures.bounding_box import BoxList


@torch.no_grad()
def im_detect_bbox_aug(
    model: nn.Module,
    images: Sequence[Image.Image],
    device: torch.device | str,
    captions: Sequence[str] | None = None,
    positive_map: Mapping[int, Sequence[int]] | None = None,
    *,
    cfg: CfgNode | None = None,
) -> list[BoxList]:
    """What a model finds on Pillow images at the sizes of TEST.SCALES, in pixels of the images.

    captions and positive_map are passed on to the model with every batch; `cfg` is the global configuration by default.
    """

    def find(batch, items: Sequence[Item], *, mirrored: bool = False) -> list[BoxList]:
        if captions is None:
            return [found.to("cpu") for found in model(batch)]
        return [found.to("cpu") for found in model(batch, captions=list(captions), positive_map=positive_map)]

    augmentation = TestTimeAugmentation.from_config(global_config if cfg is None else cfg, find, device)
    return augmentation(images, [Item(None, number) for number in range(len(images))])
