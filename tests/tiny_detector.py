"""A detector with every part of the published ones at a few thousand parameters, built in a tenth of a second."""

import json
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.config import cfg as default_config
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList, to_image_list

REPOSITORY = Path(__file__).resolve().parents[1]
SCENES_BERT = REPOSITORY / "maskrcnn_benchmark" / "assets" / "scenes_bert"
TEXT_DIM = 16
CAPTIONS = ["red star. blue cup", "green tree"]
TINY = (
    *("MODEL.DEVICE", "cpu", "MODEL.BACKBONE.OUT_CHANNELS", 16, "MODEL.GROUP_NORM.NUM_GROUPS", 4),
    *("MODEL.SWINT.EMBED_DIM", 8, "MODEL.SWINT.DEPTHS", (1, 1, 2, 2), "MODEL.SWINT.NUM_HEADS", (1, 2, 2, 2)),
    *("MODEL.SWINT.OUT_CHANNELS", (8, 16, 32, 64), "MODEL.SWINT.WINDOW_SIZE", 4),
    *("MODEL.LANGUAGE_BACKBONE.LANG_DIM", TEXT_DIM, "MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN", 48),
    *("MODEL.DYHEAD.CHANNELS", 16, "MODEL.DYHEAD.NUM_CONVS", 2),
    *("MODEL.DYHEAD.FUSE_CONFIG.JOINT_EMB_SIZE", 16, "MODEL.DYHEAD.FUSE_CONFIG.JOINT_OUT_SIZE", 16),
    *("MODEL.DYHEAD.FUSE_CONFIG.FUSE_EMBED_DIM", 32, "MODEL.DYHEAD.FUSE_CONFIG.FUSE_NUM_HEADS", 4),
)


def make_text_folder(folder: Path, model_type: str = "bert", **changes) -> Path:
    """Writes a folder with a vocabulary and the configuration of a two-layer text encoder, without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(SCENES_BERT / "vocab.txt", folder)
    sizes = {
        "vocab_size": 1318,
        "hidden_size": TEXT_DIM,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 300,
    }
    description = {"model_type": model_type, **sizes, **changes}
    (folder / "config.json").write_text(json.dumps(description), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}), encoding="utf-8")
    return folder


def tiny_config(text_folder: Path, *options, base: str = "glip_Swin_T_O365_GoldG"):
    """A published configuration at the smallest sizes, then KEY VALUE options."""
    cfg = default_config.clone()
    cfg.merge_from_file(str(REPOSITORY / "configs" / "pretrain" / f"{base}.yaml"))
    cfg.merge_from_list(list(TINY))
    language = "MODEL.LANGUAGE_BACKBONE"
    cfg.merge_from_list([f"{language}.MODEL_TYPE", str(text_folder), f"{language}.TOKENIZER_TYPE", str(text_folder)])
    cfg.merge_from_list(list(options))
    return cfg


def scramble(module: nn.Module, scale: float = 0.2, seed: int = 0) -> nn.Module:
    """Adds noise to every parameter, so that none is zero or one by its initialisation; returns the module."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return module


def random_images(*sizes: tuple[int, int], divisible: int = 32, seed: int = 1) -> ImageList:
    """A padded batch of noise with images of the given (height, width)."""
    generator = torch.Generator().manual_seed(seed)
    return to_image_list([torch.randn(3, *size, generator=generator) for size in sizes], divisible)


def target(boxes, size: tuple[int, int], labels=None) -> BoxList:
    """Boxes (xyxy) of an image of (width, height) with `labels`, ones by default."""
    result = BoxList(boxes, size, mode="xyxy")
    result.add_field("labels", torch.ones(len(result), dtype=torch.int64) if labels is None else torch.tensor(labels))
    return result


def assert_same_boxes(ours: list[BoxList], theirs: list[BoxList], atol: float = 1e-4) -> None:
    """The same detections up to the order of those with nearly equal scores; corners may differ by 100 times atol."""
    assert [len(boxes) for boxes in ours] == [len(boxes) for boxes in theirs]
    for one, other in zip(ours, theirs, strict=True):
        if atol == 0:
            assert torch.equal(one.bbox, other.bbox)
        same = (one.bbox[:, None] - other.bbox).abs().amax(-1) <= 100 * atol
        for name in ("labels", "scores"):
            same &= (one.get_field(name)[:, None] - other.get_field(name)).abs() <= atol
        assert same.any(0).all() and same.any(1).all(), f"{int((~same.any(1)).sum())} of {len(one)} have no counterpart"


def positive_rows(rows: list[list[int]], num_tokens: int) -> Tensor:
    """Token positions of every box -> the training map (boxes, num_tokens)."""
    result = torch.zeros(len(rows), num_tokens)
    for row, tokens in zip(result, rows, strict=True):
        row[tokens] = 1
    return result


POSITIVE_MAP = positive_rows([[1, 2], [4], [1]], 48)
"""Of the boxes of `training_batch`, in its captions."""


def training_batch(
    seed: int = 1, device: str = "cpu", *, size=(60, 90), captions=CAPTIONS, shift: float = 0.0
) -> tuple[ImageList, list[BoxList], list[str], Tensor]:
    """Images, targets, captions and positive map of a training call, the first image of size (height, width).

    shift: pixels by which some sides of the boxes are moved.
    """
    images = random_images(size, (64, 70), seed=seed).to(device)
    targets = [
        target([[5 + shift, 5, 50, 40], [10, 20, 60 + shift, 58]], (90, 60), [1, 2]),
        target([[8, 8, 50, 50 + shift]], (70, 64), [1]),
    ]
    return images, [one.to(device) for one in targets], list(captions), POSITIVE_MAP.to(device)


def loss_and_gradients(model: nn.Module, arguments: tuple) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses of a training call by name, and the gradients of their sum by parameter."""
    losses = model(*arguments)
    model.zero_grad()
    sum(losses.values()).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {name: value.detach() for name, value in losses.items()}, gradients
