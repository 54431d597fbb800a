"""The network of a configuration with the weights of the recipe, and what flows through it, stage by stage.

With GLIP_PARITY_DEVICE=cuda in the environment the networks run there, in float32 without TensorFloat-32.
"""

import functools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from golden.weights_recipe import BIAS0, fill
from golden_tools import GOLDEN_DIR, TOLERANCES, Tolerance, golden_path
from PIL import Image
from torch import Tensor, nn

from maskrcnn_benchmark.config import cfg as default_config
from maskrcnn_benchmark.data.transforms import build_transforms
from maskrcnn_benchmark.modeling.detector import GeneralizedVLRCNN, build_detection_model
from maskrcnn_benchmark.structures.bounding_box import BoxList

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
GLIP_T = "glip_Swin_T_O365_GoldG"
DEVICE = torch.device(os.environ.get("GLIP_PARITY_DEVICE", "cpu"))
if DEVICE.type == "cuda":
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def model_config(name: str, *options):
    """The published configuration `name` on the CPU with the vocabulary of the test data, then KEY VALUE options."""
    cfg = default_config.clone()
    cfg.merge_from_file(str(CONFIGS / "pretrain" / f"{name}.yaml"))
    bert = str(GOLDEN_DIR / "bert")
    language = "MODEL.LANGUAGE_BACKBONE"
    cfg.merge_from_list([f"{language}.MODEL_TYPE", bert, f"{language}.TOKENIZER_TYPE", bert, "MODEL.DEVICE", "cpu"])
    cfg.merge_from_list(list(options))
    return cfg


def build_golden_model(cfg, bias0: float | None = None) -> GeneralizedVLRCNN:
    """A model with the recipe's weights in eval mode; bias0: prior of the dot product, the recipe's own if None."""
    model = build_detection_model(cfg)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(fill(name, tuple(parameter.shape))))
        if bias0 is not None:
            model.rpn.head.bias0.fill_(bias0)
    return model.to(DEVICE).eval()


@functools.lru_cache(maxsize=1)
def forward_model(name: str) -> GeneralizedVLRCNN:
    """The model of the recorded forward passes of a configuration (with every text position computed)."""
    return build_golden_model(model_config(name, "MODEL.LANGUAGE_BACKBONE.TRIM_PADDING", False), BIAS0[name])


def golden_image(cfg, name: str) -> tuple[Tensor, tuple[int, int]]:
    """A recorded picture after the test transforms (3, H, W), and its original (width, height)."""
    image = Image.open(golden_path(name)).convert("RGB")
    target = BoxList(torch.zeros(0, 4), image.size, mode="xyxy")
    tensor, _ = build_transforms(cfg, is_train=False)(image, target)
    return tensor, image.size


def golden_json(name: str) -> dict:
    """A recorded JSON file."""
    return json.loads(golden_path(name).read_text(encoding="utf-8"))


def label_map(recorded: dict[str, list[int]]) -> dict[int, list[int]]:
    """A positive map with the integer labels that JSON turned into strings."""
    return {int(label): tokens for label, tokens in recorded.items()}


@contextmanager
def recorded_stages(model: GeneralizedVLRCNN) -> Iterator[dict[str, Tensor]]:
    """Collects, under the names of the golden files, what the parts of the model return while the context is open."""
    stages: dict[str, Tensor] = {}
    handles = []

    def record(module: nn.Module, store: Callable) -> None:
        handles.append(module.register_forward_hook(lambda _module, _inputs, output: store(output)))

    def store_levels(prefix: str, first: int) -> Callable:
        return lambda levels: stages.update({f"{prefix}{first + i}": level for i, level in enumerate(levels)})

    def store_text(text) -> None:
        stages.update({f"lang.{name}": text[name] for name in ("hidden", "embedded", "masks", "aggregate")})

    def store_tower(index: int, name: str) -> Callable:
        def store(state) -> None:
            store_levels(f"tower.{index}.{name}.p", 3)(state.visual)
            stages[f"tower.{index}.{name}.hidden"] = state.hidden

        return store

    record(model.backbone.body, store_levels("swin.stage", 2))
    record(model.backbone.fpn, store_levels("fpn.p", 3))
    record(model.language_backbone, store_text)
    for index, module in enumerate(model.rpn.head.dyhead_tower):
        record(module, store_tower(index, type(module).__name__))
    first = next(module for module in model.rpn.head.dyhead_tower if hasattr(module, "DyConv"))
    _record_first_dyconv(first, stages, record)

    predict = model.rpn.head.predict

    def predict_all(state, embedding=None, *, with_class_logits=True):
        outputs = predict(state, embedding, with_class_logits=True)
        for name, levels in (
            ("cls_logits", outputs.cls_logits),
            ("bbox_reg", outputs.bbox_reg),
            ("centerness", outputs.centerness),
            ("dot_logits", outputs.dot_product_logits),
        ):
            store_levels(f"head.{name}.p", 3)(levels)
        return outputs if with_class_logits else outputs._replace(cls_logits=None)

    with mock.patch.object(model.rpn.head, "predict", predict_all):
        yield stages
    for handle in handles:
        handle.remove()


def _record_first_dyconv(dyconv: nn.Module, stages: dict[str, Tensor], record: Callable) -> None:
    """Raw offsets per level, and the raw output of every convolution under the level that it contributes to."""
    level = iter(range(3, 8))
    current = {"level": 3}

    def store_offsets(output: Tensor) -> None:
        current["level"] = next(level)
        stages[f"dyconv0.offsetmask.p{current['level']}"] = output

    record(dyconv.offset, store_offsets)
    for index, branch in enumerate(dyconv.DyConv):
        record(branch.conv, lambda out, j=index: stages.update({f"dyconv0.p{current['level']}.conv{j}": out}))


def recorded_names(npz) -> list[str]:
    """Names of the arrays of a golden file without the suffixes of the sampled form."""
    return sorted({name.split("__")[0] for name in npz.files})


def stage_tolerance(name: str, first_dyconv: int) -> Tolerance:
    """Tolerance of a recorded stage; first_dyconv: index of the first dynamic convolution in the tower."""
    kind, *rest = name.split(".")
    if kind == "tower":
        return TOLERANCES["first_dyconv" if int(rest[0]) <= first_dyconv else "tower"]
    if kind == "head":
        return TOLERANCES["dot_logits" if rest[0] == "dot_logits" else "head"]
    return TOLERANCES[{"swin": "swin", "fpn": "fpn", "lang": "language", "dyconv0": "first_dyconv"}[kind]]


def assert_same_detections(
    boxes: Tensor, labels: Tensor, scores: Tensor, npz, prefix: str, *, swaps_at_the_end: int = 0
) -> None:
    """Every recorded detection has one of ours of the same label, box and score, and the other way round.

    swaps_at_the_end: how many of the weakest recorded ones may be others of ours, where a cut at the k-th score falls
    between nearly equal ones.
    """
    theirs_boxes, theirs_labels, theirs_scores = (
        np.asarray(npz[f"{prefix}.{n}"]) for n in ("boxes", "labels", "scores")
    )
    assert len(boxes) == len(theirs_boxes), f"{prefix}: {len(boxes)} detections, recorded {len(theirs_boxes)}"
    free = np.ones(len(boxes), dtype=bool)
    ours_boxes, ours_labels, ours_scores = (part.cpu().numpy() for part in (boxes, labels, scores))
    missing = []
    for i in range(len(theirs_boxes)):
        near = np.abs(ours_boxes - theirs_boxes[i]).max(1) <= TOLERANCES["boxes"].atol
        same = free & near & (ours_labels == theirs_labels[i])
        same &= np.abs(ours_scores - theirs_scores[i]) <= TOLERANCES["scores"].atol
        if same.any():
            free[np.argmax(same)] = False
        else:
            missing.append(i)
    weakest = np.argsort(theirs_scores)[:swaps_at_the_end]
    unexplained = [i for i in missing if i not in weakest]
    assert not unexplained, (
        f"{prefix}: {len(unexplained)} of {len(theirs_boxes)} recorded detections not found, first: "
        f"{theirs_boxes[unexplained[0]]}, label {theirs_labels[unexplained[0]]}, score {theirs_scores[unexplained[0]]}"
    )
