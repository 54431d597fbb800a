"""What a configured detector costs: parameters, operations, time and memory for one picture with a caption."""

import copy
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.engine.training.guarded_step import GuardedStep
from maskrcnn_benchmark.engine.training.trainer_options import amp_dtype
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.modeling.language_backbone import TextFeatures
from maskrcnn_benchmark.solver import make_optimizer
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList
from maskrcnn_benchmark.text.prompt import Prompt, build_prompts
from maskrcnn_benchmark.utils.stats import count_macs, with_unit

NAMES = (
    "person", "bicycle", "car", "airplane", "bus", "train", "boat", "traffic light", "stop sign", "bench", "bird",
    "cat", "dog", "horse", "umbrella", "bottle", "cup", "chair", "book", "clock",
)  # fmt: skip
NUM_BOXES = 10
RUNS = {"cuda": (3, 20), "cpu": (1, 3)}  # warm-up, timed
MIB = 2**20


class Cost(NamedTuple):
    """Of one picture.

    Attributes:
        macs: multiply-accumulates of matrix products, convolutions and attention; of a training step with those of the
            backward pass. seconds: median. memory: peak in bytes, on a GPU of all tensors, otherwise of the process.
    """

    macs: float
    seconds: float
    memory: int


class Operations(NamedTuple):
    """What the network computes for one picture with a caption, by part: multiply-accumulates of `count_operations`.

    Those of a backward pass are 0 in inference, and where nothing up to the end of the part is trained.
    """

    text_forward: float
    text_backward: float
    picture_forward: float
    picture_backward: float
    head_forward: float
    head_backward: float


class Profile(NamedTuple):
    """The cost of a detector.

    Attributes:
        parameters: number by part; trained: how many of all are trained; size: (height, width) of the picture;
        tokens: of the caption; device: where it was measured.
    """

    parameters: dict[str, int]
    trained: int
    size: tuple[int, int]
    tokens: int
    device: str
    inference: Cost
    training: Cost

    def __str__(self) -> str:
        """A table."""
        total = sum(self.parameters.values())
        height, width = self.size
        lines = [
            f"one picture of {height}x{width} pixels, a caption of {self.tokens} tokens, on {self.device}",
            f"{'parameters':<22}{with_unit(total, ''):>14}   {with_unit(self.trained, '')} trained",
        ]
        lines += [f"  {name:<20}{with_unit(number, ''):>14}" for name, number in self.parameters.items()]
        lines.append(f"{'':<22}{'inference':>14}{'training step':>16}")
        both = (self.inference, self.training)
        rows = {
            "operations": [with_unit(cost.macs, "Mac") for cost in both],
            "seconds per image": [f"{cost.seconds:.4f}" for cost in both],
            "images per second": [f"{1 / cost.seconds:.2f}" for cost in both],
            "peak memory": [f"{cost.memory / MIB:.0f} MiB" for cost in both],
        }
        return "\n".join([*lines, *(f"{name:<22}{one:>14}{other:>16}" for name, (one, other) in rows.items())])


def profile_model(cfg, device: torch.device) -> Profile:
    """Builds the detector and runs it on a picture of the largest test size, with random weights and noise.

    Inference is in float32, as evaluation is; training as SOLVER.USE_AMP says, with the optimizer's step.
    """
    model = build_detection_model(cfg).to(device).train()
    step = 32 if cfg.DATALOADER.SIZE_DIVISIBILITY < 1 else cfg.DATALOADER.SIZE_DIVISIBILITY
    shorter = cfg.INPUT.MIN_SIZE_TEST
    height, width = (-(-side // step) * step for side in (shorter, max(shorter, cfg.INPUT.MAX_SIZE_TEST)))
    size = (height, width)
    prompt = build_prompts(NAMES, model.tokenizer, max_tokens=cfg.MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN)[0]
    images = ImageList(torch.rand(1, 3, height, width, device=device), [size])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    macs = [sum(count_operations(model, size, prompt.caption, is_training)) for is_training in (False, True)]
    return Profile(
        {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in model.named_children()},
        sum(parameter.numel() for parameter in trained),
        size,
        len(model.tokenizer(prompt.caption).input_ids),
        str(device),
        Cost(macs[0], *_measure(_inference(model, images, prompt), device)),
        Cost(macs[1], *_measure(_training(cfg, model, images, prompt), device)),
    )


def count_operations(model: nn.Module, size: tuple[int, int], caption: str, is_training: bool) -> Operations:
    """Counts what the network computes for a picture of (height, width) and a caption.

    The numbers of picture and head follow from shapes alone and are the same on every device.
    """
    model.train(is_training)
    twin = copy.deepcopy(model).to("meta")
    images = torch.empty(1, 3, *size, device="meta")
    with torch.set_grad_enabled(is_training):
        text, *text_macs = _count_part(lambda: model.encode_text([caption]))
        text = _without_numbers(text)
        pictures, *picture_macs = _count_part(lambda: twin.run_backbone(images, text))
        levels, c4, fused = _without_numbers(pictures)
        _, *head_macs = _count_part(lambda: twin.rpn.predict(levels, fused or text, c4))
    model.zero_grad(set_to_none=True)
    return Operations(*text_macs, *picture_macs, *head_macs)


def _count_part(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """What a call returns, and the multiply-accumulates of its forward and of its backward pass."""
    results: list[Any] = []
    forward = count_macs(lambda: results.append(run()))
    trained = [x.float().sum() for x in _tensors(results[0]) if x.requires_grad]
    backward = count_macs(lambda: torch.stack(trained).sum().backward()) if trained else 0.0
    return results[0], forward, backward


def _without_numbers(outputs: Any) -> Any:
    """A tree of tuples and texts whose tensors are shapes that take gradients as the original's do."""
    if isinstance(outputs, Tensor):
        return outputs.detach().to("meta").requires_grad_(outputs.requires_grad)
    if isinstance(outputs, TextFeatures):
        return TextFeatures(**{name: _without_numbers(outputs[name]) for name in outputs.keys()})
    return tuple(map(_without_numbers, outputs)) if isinstance(outputs, tuple) else outputs


def _tensors(outputs: Any) -> list[Tensor]:
    """All tensors of a tree of tuples, lists and texts."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, TextFeatures):
        outputs = [outputs[name] for name in outputs.keys()]
    if isinstance(outputs, tuple | list):
        return [tensor for output in outputs for tensor in _tensors(output)]
    return []


def _inference(model: nn.Module, images: ImageList, prompt: Prompt) -> Callable[[], object]:
    model.eval()

    @torch.no_grad()
    def run() -> object:
        return model(images, captions=[prompt.caption], positive_map=prompt.label_to_tokens)

    return run


def _training(cfg, model: nn.Module, images: ImageList, prompt: Prompt) -> Callable[[], object]:
    model.train()
    device, (height, width) = images.tensors.device, images.image_sizes[0]
    labels = torch.arange(NUM_BOXES) % len(prompt.label_to_tokens) + 1
    corners = torch.rand(NUM_BOXES, 2) * torch.tensor([width, height]) * 0.5
    target = BoxList(torch.cat([corners, corners + torch.tensor([width, height]) * 0.3], dim=1), (width, height))
    target.add_field("labels", labels)
    target.add_field("tokens_positive", [prompt.spans[label] for label in labels.tolist()])
    positive_map = torch.zeros(NUM_BOXES, cfg.MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN, device=device)
    for row, label in zip(positive_map, labels.tolist(), strict=True):
        row[list(prompt.label_to_tokens[label])] = 1.0
    dtype = amp_dtype(cfg)
    step = GuardedStep(make_optimizer(cfg, model), device, use_loss_scale=dtype is torch.float16)
    targets, greenlight_map = [target.to(device)], torch.zeros(1, positive_map.shape[1], device=device)

    def run() -> object:
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            losses = model(images, targets, [prompt.caption], positive_map, greenlight_map=greenlight_map)
            total = torch.stack([loss.float() for loss in losses.values()]).sum()
        return step(total)

    return run


def _measure(run: Callable[[], object], device: torch.device) -> tuple[float, int]:
    """(median of seconds, peak memory in bytes)."""
    warm_up, timed = RUNS[device.type]
    is_cuda = device.type == "cuda"
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(warm_up + timed):
        started = time.perf_counter()
        run()
        if is_cuda:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    memory = (
        torch.cuda.max_memory_allocated(device)
        if is_cuda
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return statistics.median(seconds[warm_up:]), memory
