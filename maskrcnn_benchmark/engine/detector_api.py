"""The detector as a plain Python object: pictures and texts in, labelled boxes out.

detector = Detector.from_pretrained("glip_nano")
(found,) = detector.predict("street.jpg", "person. traffic light")
print(found.phrases, found.scores, found.boxes)
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from maskrcnn_benchmark.config import CfgNode, default_config
from maskrcnn_benchmark.data.transforms import build_transforms
from maskrcnn_benchmark.data.upload import ImageUpload, split_transforms
from maskrcnn_benchmark.engine.devices import resolve_device
from maskrcnn_benchmark.engine.image_io import as_rgb_array
from maskrcnn_benchmark.engine.loading import load_model
from maskrcnn_benchmark.engine.model_files import find_model
from maskrcnn_benchmark.engine.selection import Selection
from maskrcnn_benchmark.engine.text_files import use_local_text_files
from maskrcnn_benchmark.engine.tuning.adapter import Adapter, restore
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList, to_image_list
from maskrcnn_benchmark.text.caption import PhraseLike, prompts_from_caption
from maskrcnn_benchmark.text.class_names import split_class_text
from maskrcnn_benchmark.text.prompt import Prompt, build_prompts
from maskrcnn_benchmark.utils.precision_names import DEFAULT_PRECISION

if TYPE_CHECKING:
    from maskrcnn_benchmark.modeling.language_backbone import TextFeatures

REMEMBERED_TEXTS = 256
"""Captions whose features a detector keeps, less than a megabyte each."""

_SEPARATOR = re.compile(r"[.;\n]")

ImageLike = str | Path | Image.Image | np.ndarray


@dataclass(frozen=True)
class Caption:
    """A prompt that is a sentence, whatever its punctuation: its noun phrases are searched for, or ``phrases``.

    Attributes:
        phrases: what to search for instead, as words of the sentence or as their characters [begin, end).
    """

    text: str
    phrases: tuple[PhraseLike, ...] | None = None


PromptLike = str | Caption | Sequence[str] | Sequence[Prompt]


@dataclass(frozen=True)
class Prediction:
    """What was found on one picture, the best score first. Tensors are on the CPU.

    Attributes:
        boxes: (K, 4) float32, xyxy in pixels of the picture.
        scores: (K,) float32 in 0..1.
        labels: (K,) int64, number of the class or phrase in the prompt, from 1.
        phrases: K texts, the class or phrase of each box.
        spans: for each box the character spans [begin, end) of its phrase in its caption.
        captions: for each box the caption that the model read.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    phrases: list[str]
    spans: list[list[tuple[int, int]]]
    captions: list[str]

    def __len__(self) -> int:
        return len(self.phrases)


class Detector:
    """Finds what a text names on pictures. It is for inference: the weights of the model must not change.

    Args:
        model: a ``GeneralizedVLRCNN``; used are its ``encode_image``, ``encode_text``, ``detect`` and ``tokenizer``.
        transform: ``transform(picture, None) -> (tensor (3, H, W), None)``.
        device: where the model runs.
        size_divisible: the sides of a batch become multiples of it.
        nms_threshold: overlap (IoU) from which two boxes found by different parts of a long prompt, or for different
            phrases, count as the same.
        max_tokens, separation: how class lists become captions.
        reads_text: the image encoder reads the text as well, so that it runs anew for every caption.
        name: what reports call the model.
        upload: makes the network's input of resized pictures; `transform` then gives Pillow images.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        transform,
        device: torch.device,
        size_divisible: int = 32,
        nms_threshold: float = 0.6,
        max_tokens: int = 256,
        separation: str = ". ",
        reads_text: bool = False,
        name: str = "",
        upload: ImageUpload | None = None,
    ):
        self.model = model.to(device).eval()
        self.transform = transform
        self.device = device
        self.size_divisible = size_divisible
        self.nms_threshold = nms_threshold
        self.max_tokens, self.separation = max_tokens, separation
        self.reads_text = reads_text
        self.name = name
        self.upload = upload
        self.adapter: Adapter | None = None
        self._texts: dict[tuple[str, ...], TextFeatures] = {}
        self._before_adapter: dict[str, Tensor | None] = {}

    @classmethod
    def from_pretrained(
        cls,
        name_or_dir: str | Path,
        device: str | torch.device | None = None,
        *,
        precision: str | None = DEFAULT_PRECISION,
    ) -> "Detector":
        """A model by name, or from a folder with ``config.yaml`` and one file of weights.

        Args:
            name_or_dir: "glip_nano", which is part of the package; a published name such as
                "glip_tiny_model_o365_goldg_cc_sbu", downloaded when first used; or a folder.
            device: "cpu", "cuda:1", ...; by default a GPU where there is one.
            precision: on a GPU: "fp16", "bf16", "tf32" or "fp32"; None runs the plain modules as PyTorch is set.
        Raises: ValueError or OSError whose text names the model, file or device that cannot be used.
        """
        target = resolve_device(device)
        files = find_model(name_or_dir)
        return cls.from_config_file(files.config, files.weights(), device=target, name=files.name, precision=precision)

    @classmethod
    def from_config_file(
        cls,
        config_file: str | Path,
        weights: str | Path,
        *,
        device: str | torch.device | None = None,
        name: str | None = None,
        precision: str | None = DEFAULT_PRECISION,
    ) -> "Detector":
        """A model from its configuration and a checkpoint; text encoder folders may be relative to the former."""
        target = resolve_device(device)
        cfg = default_config()
        cfg.merge_from_file(config_file)
        use_local_text_files(cfg, Path(config_file).parent)
        return cls.from_config(
            cfg, weights, device=target, name=str(weights) if name is None else name, precision=precision
        )

    @classmethod
    def from_config(
        cls,
        cfg: CfgNode,
        weights: str | Path | None,
        *,
        device: str | torch.device | None = None,
        name: str = "",
        precision: str | None = DEFAULT_PRECISION,
    ) -> "Detector":
        """A model from a configuration; without ``weights`` it stays as it was built. ``cfg`` is not changed."""
        target = resolve_device(device)
        cfg = cfg.clone()
        cfg.merge_from_list(["MODEL.DEVICE", str(target)])
        model = load_model(cfg, weights, target).use_precision(precision)
        transform, upload = build_transforms(cfg, is_train=False), None
        parts = split_transforms(transform)
        if target.type == "cuda" and parts is not None:
            transform, normalize = parts
            upload = ImageUpload(normalize, target, cfg.DATALOADER.SIZE_DIVISIBILITY)
        return cls(
            model,
            transform=transform,
            device=target,
            size_divisible=cfg.DATALOADER.SIZE_DIVISIBILITY,
            nms_threshold=cfg.MODEL.ATSS.NMS_TH,
            max_tokens=cfg.MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN,
            separation=cfg.DATASETS.SEPARATION_TOKENS,
            reads_text=model.backbone.reads_text,
            name=name,
            upload=upload,
        )

    def load_adapter(self, adapter: str | Path | Adapter | None) -> "Detector":
        """Puts the result of a prompt tuning or linear probing in place of an earlier one; returns the detector.

        `predict(images, detector.adapter.prompts)` reads the captions that it was trained on, which is what a learnt
        prompt is for; None takes the adapter away.
        Raises: FileNotFoundError; CheckpointError for a file that is no adapter; ValueError where it was trained with
            other weights than those of this detector, which then has none.
        """
        loaded = adapter if isinstance(adapter, Adapter | None) else Adapter.load(adapter)
        restore(self.model, self._before_adapter)
        self.adapter, self._before_adapter = None, {}
        self._texts.clear()
        if loaded is not None:
            self._before_adapter = loaded.apply(self.model)
            self.adapter = loaded
        return self

    def prepare(self, prompt: PromptLike, *, labels: Sequence[int] | None = None) -> tuple[Prompt, ...]:
        """The captions that stand for a prompt, several where it is long; ``predict`` takes the result as well.

        labels: numbers of the classes of a list, all different; by default 1, 2, ...
        A list of strings is a list of classes. A string with full stops or semicolons between words is one too
        ("person. traffic light"). Any other string, and a ``Caption``, is a sentence; it stands for its noun phrases.
        Raises: ValueError naming the prompt when it is empty, names nothing, or holds a class that is too long.
        """
        tokenizer, limit = self.model.tokenizer, self.max_tokens
        if isinstance(prompt, str):
            names = split_class_text(prompt)
            prompt = names if len(_SEPARATOR.split(prompt.strip(" .;\n"))) > 1 else Caption(prompt)
        if isinstance(prompt, Caption):
            return tuple(prompts_from_caption(prompt.text, tokenizer, phrases=prompt.phrases, max_tokens=limit))
        if not isinstance(prompt, Sequence):
            raise ValueError(f"a prompt is a text, a list of class names or a Caption, not {prompt!r}")
        parts = tuple(prompt)
        if parts and all(isinstance(part, Prompt) for part in parts):
            return parts
        return tuple(build_prompts(parts, tokenizer, labels=labels, separation=self.separation, max_tokens=limit))

    @torch.inference_mode()
    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        prompts: PromptLike | Sequence[PromptLike],
        threshold: float = 0.5,
        batch_size: int = 1,
        *,
        one_label: bool = False,
        top: int | None = None,
    ) -> list[Prediction]:
        """Finds what the prompts name.

        Args:
            images: one picture or several: paths, Pillow images or uint8 RGB arrays (H, W, 3).
            prompts: for one picture its prompt (see ``prepare``). For a list of pictures either one string, ``Caption``
                or prepared prompt for all, or a list with one prompt for each; a list of one prompt is for all.
            threshold: boxes have scores above it. The model itself cuts at its own, lower threshold.
            batch_size: pictures computed at a time. A batch is padded to its largest picture, which changes scores in
                the last digits; one at a time gives the same result in any company.
            one_label: where several classes or phrases fit the same box, keep only the best of them.
            top: at most so many boxes of each class or phrase; 1 suits sentences about single things.
        Returns: one prediction for each picture, in their order.
        Raises: ValueError (ImageError for pictures) with the offending value in its text.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} is not a positive number")
        selection = Selection(threshold, one_label, top)
        several = isinstance(images, list | tuple)
        pictures = list(images) if several else [images]
        plans = self._plans(prompts, len(pictures), several)
        results: dict[int, Prediction] = {}
        # Pictures with equally many captions share a batch, so that each image is encoded once for all its captions.
        order = sorted(range(len(pictures)), key=lambda i: len(plans[i]))
        for _, group in _runs(order, key=lambda i: len(plans[i])):
            for start in range(0, len(group), batch_size):
                chosen = group[start : start + batch_size]
                batch = [as_rgb_array(pictures[i]) for i in chosen]
                found = self._predict_batch(batch, [plans[i] for i in chosen])
                for i, image, parts in zip(chosen, batch, found, strict=True):
                    size = (image.shape[1], image.shape[0])
                    results[i] = self._merge(parts, plans[i], size, selection)
        return [results[i] for i in range(len(pictures))]

    def _plans(self, prompts, count: int, several: bool) -> list[tuple[Prompt, ...]]:
        """For each picture the captions to be read with it."""
        shared = isinstance(prompts, str | Caption) or not several
        if not shared:
            prompts = list(prompts)
            shared = bool(prompts) and all(isinstance(prompt, Prompt) for prompt in prompts)
        if not shared and len(prompts) == 1:
            prompts, shared = prompts[0], True
        if shared:
            return [self.prepare(prompts)] * count
        if len(prompts) != count:
            raise ValueError(
                f"{len(prompts)} prompts for {count} pictures; give one for each, or for all a text such as "
                "'person. dog' or a list that holds one list of classes"
            )
        return [self.prepare(prompt) for prompt in prompts]

    def _predict_batch(self, images: list[np.ndarray], plans: list[tuple[Prompt, ...]]) -> list[list[BoxList]]:
        """For each picture what each of its captions found, in pixels of the resized picture."""
        batch = self.network_input([self.transform(Image.fromarray(image), None)[0] for image in images])
        if len(images) == 1 and not self.reads_text:
            text = self._encode_text([prompt.caption for prompt in plans[0]])
            maps = [prompt.label_to_tokens for prompt in plans[0]]
            return [self.model.detect(self.model.encode_image(batch), text, maps)]
        features = None if self.reads_text else self.model.encode_image(batch)
        parts: list[list[BoxList]] = [[] for _ in images]
        for prompts in zip(*plans, strict=True):  # the first caption of every picture, then the second, ...
            text = self._encode_text([prompt.caption for prompt in prompts])
            seen = self.model.encode_image(batch, text) if features is None else features
            detections = self.model.detect(seen, text, [prompt.label_to_tokens for prompt in prompts])
            for found, detection in zip(parts, detections, strict=True):
                found.append(detection)
        return parts

    def network_input(self, pictures: list) -> ImageList:
        """Pictures that `transform` has made as a batch on the device."""
        if self.upload is not None:
            return self.upload([torch.from_numpy(np.array(picture)) for picture in pictures])
        return to_image_list([picture.to(self.device) for picture in pictures], self.size_divisible)

    def _encode_text(self, captions: list[str]):
        """The features of the captions; those of captions that come again are remembered."""
        key = tuple(captions[:1] if len(set(captions)) == 1 else captions)
        if key not in self._texts:
            while sum(map(len, self._texts)) + len(key) > REMEMBERED_TEXTS and self._texts:
                self._texts.pop(next(iter(self._texts)))  # the oldest
            self._texts[key] = self.model.encode_text(list(key))
        return _repeat(self._texts[key], len(captions)) if len(key) == 1 else self._texts[key]

    def _merge(
        self, found: list[BoxList], plan: Sequence[Prompt], size: tuple[int, int], selection: Selection
    ) -> Prediction:
        """Joins what the captions of one picture found; ``size`` is its (width, height)."""
        boxes = torch.cat([part.bbox for part in found])
        scores = torch.cat([part.get_field("scores") for part in found])
        labels = torch.cat([part.get_field("labels") for part in found])
        origin = torch.cat([torch.full((len(part),), i, device=boxes.device) for i, part in enumerate(found)])
        keep = selection.indices(boxes, scores, labels, overlap=self.nms_threshold, merge=len(found) > 1)
        resized = BoxList(boxes[keep], found[0].size, mode="xyxy").resize(size)
        sources = [plan[i] for i in origin[keep].tolist()]
        names = labels[keep].tolist()
        return Prediction(
            boxes=resized.bbox.float().cpu(),
            scores=scores[keep].float().cpu(),
            labels=labels[keep].cpu(),
            phrases=[prompt.phrases[label] for prompt, label in zip(sources, names, strict=True)],
            spans=[prompt.spans[label] for prompt, label in zip(sources, names, strict=True)],
            captions=[prompt.caption for prompt in sources],
        )


def _repeat(text: "TextFeatures", count: int) -> "TextFeatures":
    """The features of one caption as those of ``count`` equal ones."""
    if count == 1:
        return text
    values = {field.name: getattr(text, field.name) for field in dataclasses.fields(text)}
    tensors = {
        name: value.expand(count, *value.shape[1:]) for name, value in values.items() if isinstance(value, Tensor)
    }
    return dataclasses.replace(text, **tensors)


def _runs(items: Sequence[int], key) -> Iterator[tuple[int, list[int]]]:
    """Neighbours with equal keys as lists."""
    for value, group in groupby(items, key):
        yield value, list(group)
