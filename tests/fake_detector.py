"""A network without weights that answers from its inputs, for tests of what lies around the network."""

import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.config import default_config
from maskrcnn_benchmark.data.transforms import build_transforms
from maskrcnn_benchmark.engine.detector_api import Detector
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.text.tokenizer import build_tokenizer

VOCABULARY = Path(__file__).parent / "golden" / "bert"


@lru_cache(maxsize=1)
def _tokenizer():
    return build_tokenizer(VOCABULARY)


@dataclass(frozen=True)
class FakeText:
    hidden: Tensor
    captions: list[str]


def planted_score(label: int) -> float:
    """Score of the box of a label: 0.9, 0.8, ... 0.5, then again."""
    return 0.9 - 0.1 * ((label - 1) % 5)


class FakeNetwork(nn.Module):
    """Finds for every label of the positive map one box, whose place follows from the label; counts its calls."""

    def __init__(self):
        super().__init__()
        self.tokenizer = _tokenizer()
        self.weight = nn.Parameter(torch.zeros(1))
        self.encoded_images: list[list[tuple[int, int]]] = []
        self.encoded_texts: list[list[str]] = []
        self.detected: list[list[dict[int, list[int]]]] = []

    def encode_image(self, images, text=None):
        self.encoded_images.append(images.image_sizes)
        return images

    def encode_text(self, captions):
        self.encoded_texts.append(list(captions))
        return FakeText(torch.zeros(len(captions), 4, 8), list(captions))

    def detect(self, features, text, positive_map):
        assert text.hidden.shape[0] == len(positive_map) and len(features) in (1, len(positive_map))
        self.detected.append(positive_map)
        sizes = features.image_sizes * (len(positive_map) // len(features))
        return [self._found(size, labels) for size, labels in zip(sizes, positive_map, strict=True)]

    @staticmethod
    def _found(size, label_to_tokens) -> BoxList:
        height, width = size
        labels = sorted(label_to_tokens)
        corners = [(zlib.crc32(str(label).encode()) % 50 / 100, label % 5 / 10) for label in labels]
        boxes = [(x * width, y * height, (x + 0.3) * width, (y + 0.3) * height) for x, y in corners]
        found = BoxList(torch.tensor(boxes).reshape(-1, 4), (width, height))
        found.add_field("labels", torch.tensor(labels, dtype=torch.int64))
        found.add_field("scores", torch.tensor([planted_score(label) for label in labels]))
        return found


def fake_detector(**arguments) -> Detector:
    """A detector around a new FakeNetwork, with the real transform at 64 pixels."""
    cfg = default_config()
    cfg.merge_from_list(["INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 128])
    transform = build_transforms(cfg, is_train=False)
    return Detector(FakeNetwork(), transform=transform, device=torch.device("cpu"), name="fake", **arguments)
