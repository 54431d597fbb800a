"""A few pictures of a test set with what a model finds on them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.boxlist_ops import cat_boxlist
from maskrcnn_benchmark.text.positive_map import label_to_tokens
from maskrcnn_benchmark.text.queries import create_queries_and_maps_from_dataset
from maskrcnn_benchmark.visualization.draw import draw_boxes

MAX_BOXES = 20  # per picture

LabelToTokens = dict[int, list[int]]


@torch.no_grad()
def draw_predictions(
    cfg, model: nn.Module, data_loader, device: torch.device | str, *, count: int = 4, threshold: float = 0.3
) -> list[np.ndarray]:
    """The first `count` pictures of a test set with their boxes, as arrays (H, W, 3) of uint8 RGB.

    Args:
        cfg: as `inference` reads it: TEST.EVAL_TASK and what prompts are made of.
        model: in evaluation mode, not wrapped, with a `tokenizer`.
        data_loader: of the test set; its workers are not started.
        threshold: lowest score that is drawn.
    """
    dataset = data_loader.dataset
    items = [dataset[index] for index in range(min(count, len(dataset)))]
    images, targets, *_ = data_loader.collate_fn(items)
    images = images.to(device)
    boxes: list[list[BoxList]] = [[] for _ in targets]
    names: list[list[str]] = [[] for _ in targets]
    for captions, maps in _rounds(cfg, model, dataset, targets):
        found = model(images, captions=captions, positive_map=maps)
        for number, detections in enumerate(found):
            detections = detections.to("cpu")
            boxes[number].append(detections)
            tokens = model.tokenizer(captions[number]).input_ids
            names[number] += [
                model.tokenizer.decode([tokens[position] for position in maps[number][label] if position < len(tokens)])
                for label in detections.get_field("labels").tolist()
            ]
    pictures = []
    for number, (height, width) in enumerate(images.image_sizes):
        picture = picture_of(images.tensors[number, :, :height, :width], cfg)
        pictures.append(_drawn(picture, cat_boxlist(boxes[number]), names[number], threshold))
    return pictures


def _rounds(cfg, model: nn.Module, dataset, targets: Sequence[BoxList]) -> list[tuple[list[str], list[LabelToTokens]]]:
    """For every round of questions the captions of the pictures and their maps."""
    if cfg.TEST.EVAL_TASK == "grounding":
        captions = [target.get_field("caption") for target in targets]
        return [(captions, [label_to_tokens(target.get_field("positive_map_eval")) for target in targets])]
    prompts = zip(*create_queries_and_maps_from_dataset(dataset, cfg, tokenizer=model.tokenizer), strict=True)
    return [([caption] * len(targets), [tokens] * len(targets)) for caption, tokens in prompts]


def picture_of(image: Tensor, cfg) -> np.ndarray:
    """The network's input (3, H, W) -> (H, W, 3) uint8 RGB: the transforms of the configuration, backwards."""
    from maskrcnn_benchmark.data.transforms.build import image_format

    mean, std = (torch.tensor(value)[:, None, None] for value in (cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD))
    pixels = image.float().cpu() * std + mean
    order = image_format(cfg).lower()
    if "255" not in order:
        pixels = pixels * 255
    if "bgr" in order:
        pixels = pixels.flip(0)
    return pixels.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def _drawn(picture: np.ndarray, found: BoxList, names: Sequence[str], threshold: float) -> np.ndarray:
    scores = found.get_field("scores")
    order = [index for index in scores.argsort(descending=True).tolist() if scores[index] >= threshold][:MAX_BOXES]
    return np.asarray(
        draw_boxes(
            picture,
            found.convert("xyxy").bbox[order].tolist(),
            [names[index] for index in order],
            scores=scores[order].tolist(),
        )
    )
