"""What the inference benchmarks run: a full-size detector, pictures, prompts, and a fixed load for the selection.

Without a checkpoint the parameters are those of the parity tests, a formula of their names. Their scores say nothing,
so the word logits that enter the selection can be exchanged for a fixed load: a cold background and 100 objects, which
make about 4,700 candidates above the threshold. The network's own logits are computed all the same.
"""

import argparse
import json
import os
import runpy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from measure import ROOT
from PIL import Image
from torch import Tensor, nn

from maskrcnn_benchmark.config import default_config
from maskrcnn_benchmark.data.transforms import Normalize
from maskrcnn_benchmark.data.upload import ImageUpload
from maskrcnn_benchmark.modeling.accelerated.pyramid import PyramidShape
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.text.prompt import Prompt, build_prompts
from maskrcnn_benchmark.utils.weight_conversion import load_weights

GOLDEN = ROOT / "tests" / "golden"
CONFIGS = ROOT / "configs" / "pretrain"
GLIP_T = CONFIGS / "glip_Swin_T_O365_GoldG.yaml"
NUM_OBJECTS = 100
REACH = 3  # cells around an object that see it
BACKGROUND, FOREGROUND = -8.0, 1.0


class Workload(NamedTuple):
    """A detector in eval mode on its device, and how pictures reach it."""

    model: nn.Module
    upload: ImageUpload
    name: str


def fill_parameters(model: nn.Module, config_name: str) -> None:
    """Gives every parameter the values that the parity tests use."""
    recipe = runpy.run_path(str(GOLDEN / "weights_recipe.py"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(recipe["fill"](name, tuple(parameter.shape))))
        model.rpn.head.bias0.fill_(recipe["BIAS0"].get(config_name, recipe["DEFAULT_BIAS0"]))


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `build`."""
    parser.add_argument("--config-file", default=str(GLIP_T), help="default: GLIP-T")
    parser.add_argument("--weights", help="a checkpoint; default: the parameters of the parity tests")
    parser.add_argument(
        "--text-encoder", default=str(GOLDEN / "bert"), help="name or folder; default: that of the parity tests"
    )


def build(
    config_file: str, device: torch.device, *, weights: str | None = None, text_encoder: str = str(GOLDEN / "bert")
) -> Workload:
    """The detector of a configuration, with a checkpoint or the parameters of the parity tests."""
    cfg = default_config()
    cfg.merge_from_file(config_file)
    for key in ("MODEL_TYPE", "TOKENIZER_TYPE"):
        cfg.merge_from_list([f"MODEL.LANGUAGE_BACKBONE.{key}", text_encoder])
    name = os.path.splitext(os.path.basename(config_file))[0]
    model = build_detection_model(cfg)
    if weights:
        load_weights(model, weights)
    else:
        fill_parameters(model, name)
    normalize = Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD, format="bgr255")
    return Workload(model.to(device).eval(), ImageUpload(normalize, device), name)


def pictures(sizes: Sequence[tuple[int, int]], seed: int, *, pinned: bool) -> list[Tensor] | Tensor:
    """uint8 RGB pictures of the given (height, width) on the CPU; one tensor (B, H, W, 3) if the sizes are equal.

    Every seed moves the picture of the parity tests to another place.
    """
    base = Image.open(GOLDEN / "img_a.png").convert("RGB")
    generator = np.random.default_rng(seed)
    batch = []
    for height, width in sizes:
        array = np.array(base.resize((width, height), Image.Resampling.BILINEAR))
        shift = [int(generator.integers(0, length)) for length in (height, width)]
        batch.append(torch.from_numpy(np.roll(array, shift, (0, 1))))
    whole = torch.stack(batch) if len(set(sizes)) == 1 else None
    if not pinned:
        return batch if whole is None else whole
    return [picture.pin_memory() for picture in batch] if whole is None else whole.pin_memory()


def coco_names() -> list[str]:
    """The 80 names of COCO's classes."""
    return list(json.loads((GOLDEN / "text" / "tokenization.json").read_text())["coco80"]["categories"].values())


def coco_prompt(tokenizer, seed: int = 0) -> Prompt:
    """The 80 COCO names (194 tokens), from the second seed on in another order."""
    names = coco_names()
    if seed:
        np.random.default_rng(seed).shuffle(names)
    (prompt,) = build_prompts(names, tokenizer)
    return prompt


def many_prompts(tokenizer, num_classes: int = 1203, chunk_size: int = 39, seed: int = 0) -> list[Prompt]:
    """Prompts of made-up class names in chunks, as for LVIS; a chunk of 39 has about 101 tokens."""
    words = (GOLDEN / "bert" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    whole = [word for word in words if word.isalpha() and word.isascii() and 4 <= len(word) <= 8]
    picked = np.random.default_rng(seed).permutation(len(whole))
    names = [whole[i] for i in picked[:num_classes]]
    half = np.random.default_rng(seed + 1).random(num_classes) < 0.54
    extra = [whole[i] for i in picked[num_classes : 2 * num_classes]]
    names = [f"{name} {second}" if is_long else name for name, second, is_long in zip(names, extra, half, strict=True)]
    return build_prompts(names, tokenizer, chunk_size=chunk_size)


def pyramid_of(height: int, width: int) -> PyramidShape:
    """The levels of strides 8 to 128 of a padded picture."""
    sizes = [(-(-height // 8), -(-width // 8))]
    while len(sizes) < 5:
        sizes.append(tuple(-(-length // 2) for length in sizes[-1]))
    return PyramidShape.of(sizes)


def selection_load(shape: PyramidShape, prompts: Sequence[Prompt], num_tokens: int) -> Tensor:
    """Word logits (P, N, num_tokens) on the CPU with a cold background and objects, for each of P prompts."""
    logits = torch.full((len(prompts), shape.total, num_tokens), BACKGROUND)
    for image, prompt in enumerate(prompts):
        generator = np.random.default_rng(image)
        labels = list(prompt.label_to_tokens)
        for _ in range(NUM_OBJECTS):
            level = int(generator.choice(3, p=(0.6, 0.3, 0.1)))
            height, width = shape.sizes[level]
            y = int(generator.integers(REACH, max(height - REACH, REACH + 1)))
            x = int(generator.integers(REACH, max(width - REACH, REACH + 1)))
            tokens = prompt.label_to_tokens[labels[int(generator.integers(len(labels)))]]
            for row in range(y - REACH, min(y + REACH + 1, height)):
                begin = shape.starts[level] + row * width + x - REACH
                end = min(begin + 2 * REACH + 1, shape.starts[level] + (row + 1) * width)
                noise = torch.from_numpy(generator.normal(0, 1, (end - begin, 1)))
                logits[image, begin:end, tokens] = (FOREGROUND + noise).float()
    return logits


class SelectionLoad:
    """Puts given word logits in the place of the network's own before the selection, plain and accelerated.

    Args:
        model: the detector, in the precision that is measured.
        logits: (P, N, T) on the device, read anew by every call; T is at least the length of the texts.
    """

    def __init__(self, model: nn.Module, logits: Tensor):
        self.model, self.logits = model, logits

    def __enter__(self) -> "SelectionLoad":
        rpn = self.model.rpn
        plain_select = rpn.select

        def select(outputs, anchors, positive_map):
            sizes = [len(level.bbox) for level in anchors[0]]
            logits = self.logits[:, :, : outputs.dot_product_logits[0].shape[-1]]
            return plain_select(outputs._replace(dot_product_logits=logits.split(sizes, 1)), anchors, positive_map)

        rpn.select = select
        accelerated = self.model.accelerated_form()
        if accelerated is not None:
            head = accelerated.head

            def loaded_head(visual, shape, hidden, *more):
                return head(visual, shape, hidden, *more)._replace(word_logits=self.logits[:, :, : hidden.shape[1]])

            accelerated.head = loaded_head
        return self

    def __exit__(self, *_) -> None:
        del self.model.rpn.select
        if self.model.acceleration is not None:
            self.model.acceleration.forget()
