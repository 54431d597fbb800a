"""Turning off the randomness of training."""

import pytest
import torch
from parity.model_golden import GLIP_T, golden_json, model_config
from timm.layers import DropPath
from tiny_detector import make_text_folder, positive_rows, random_images, target, tiny_config
from torch import nn

from maskrcnn_benchmark.layers import DropBlock2D
from maskrcnn_benchmark.modeling.detector import build_detection_model, disable_stochasticity
from maskrcnn_benchmark.modeling.fusion import BiMultiHeadAttention, MultiHeadAttention

FUSE = "MODEL.DYHEAD.FUSE_CONFIG"


def probabilities(model: nn.Module) -> dict[str, list[float]]:
    """Class name -> the probabilities of its modules."""
    found: dict[str, list[float]] = {}
    for module in model.modules():
        value = None
        if isinstance(module, nn.Dropout):
            value = module.p
        elif isinstance(module, DropPath | DropBlock2D):
            value = module.drop_prob
        elif isinstance(module, BiMultiHeadAttention | MultiHeadAttention | nn.MultiheadAttention):
            value = module.dropout
        if value is not None:
            found.setdefault(type(module).__name__, []).append(value)
    return found


@pytest.mark.parity
def test_modules_of_the_full_size_detector():
    """As many as were turned off for the recording, less the 37 of Swin, which never drop and are left out here."""
    recorded = golden_json(f"train_{GLIP_T}.json")["zeroed_dropout_modules"]
    with torch.device("meta"):
        model = build_detection_model(model_config(GLIP_T))
    live = {name: sum(p > 0 for p in values) for name, values in probabilities(model).items()}
    swin = 1 + 3 * sum((2, 2, 6, 2))  # one at the entry, three in every block
    assert live == recorded | {"Dropout": recorded["Dropout"] - swin}
    assert disable_stochasticity(model) is model
    assert not any(sum(values) for values in probabilities(model).values())


VARIANTS = {
    "two-way": (),
    "separate": (f"{FUSE}.SEPARATE_BIDIRECTIONAL", True),
    "one-way": (f"{FUSE}.TYPE", "MHA-S"),
    "film": (f"{FUSE}.TYPE", "FILM"),
    "text in the body": ("MODEL.SWINT.VERSION", "vl"),
    "second pyramid": ("MODEL.FPN.USE_PAN", True),
    "contrastive": (
        *(f"{FUSE}.USE_DOT_PRODUCT_TOKEN_LOSS", False, f"{FUSE}.USE_CONTRASTIVE_ALIGN_LOSS", True),
        *(f"{FUSE}.USE_FUSED_FEATURES_DOT_PRODUCT", False),
    ),
    "clip": (
        *("MODEL.LANGUAGE_BACKBONE.MODEL_TYPE", "clip", "MODEL.CLIP.VOCAB_SIZE", 1318, "MODEL.CLIP.WIDTH", 16),
        *("MODEL.CLIP.CONTEXT_LENGTH", 48, "MODEL.CLIP.LAYERS", 2, "MODEL.CLIP.HEADS", 4, "MODEL.CLIP.DROP_PATH", 0.5),
    ),
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_two_training_steps_agree(tmp_path, options):
    """With randomness on they differ, in the losses or at least in a gradient."""
    torch.manual_seed(0)
    model = build_detection_model(tiny_config(make_text_folder(tmp_path), *options)).train()
    boxes = target([[1, 2, 30, 40], [10, 10, 60, 60]], (90, 70))
    boxes.add_field("tokens_positive", [[(0, 3)], [(4, 8)]])

    def step() -> list[torch.Tensor]:
        model.zero_grad()
        positive_map = positive_rows([[1], [2]], 48)
        # FILM's batch norms need more than one image.
        batch = random_images((70, 90), (70, 90))
        losses = model(batch, [boxes, boxes], ["red star"] * 2, torch.cat([positive_map] * 2))
        sum(losses.values()).backward()
        return [*losses.values(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    first, second = step(), step()
    assert not all(map(torch.equal, first, second))
    disable_stochasticity(model)
    for one, other in zip(step(), step(), strict=True):
        assert torch.equal(one, other)
