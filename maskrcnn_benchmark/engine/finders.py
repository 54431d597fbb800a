"""How a batch of a test set becomes detections: what the model is asked, and what of its work serves several pictures.

A finder is called with a batch and returns for every item the detections in pixels of the network's input, on the CPU.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn_benchmark.data.datasets.directional_caption import mirror_text
from maskrcnn_benchmark.modeling.detector import FeaturePyramid, GeneralizedVLRCNN
from maskrcnn_benchmark.modeling.detector.detect_later import detect_later
from maskrcnn_benchmark.modeling.language_backbone import TextFeatures
from maskrcnn_benchmark.modeling.language_backbone.knowledge import class_features
from maskrcnn_benchmark.modeling.postprocess.token_scores import PositiveMap, TokenMap, build_token_map
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.boxlist_ops import cat_boxlist
from maskrcnn_benchmark.structures.image_list import ImageList
from maskrcnn_benchmark.text.positive_map import label_to_tokens, token_positions
from maskrcnn_benchmark.text.prompt import Prompt

SENTENCES_AT_A_TIME = 64  # descriptions of classes in a batch of the text encoder


class Item(NamedTuple):
    """An item of a test set.

    Attributes:
        target: what the dataset returns beside the picture.
        picture: equal for items that show the same picture.
        spans: for every phrase its character spans in the caption, where captions are evaluated.
    """

    target: Any
    picture: Hashable
    spans: Sequence[Sequence[Sequence[int]]] = ()


class Finder(Protocol):
    """Finds things on a batch of pictures, one for every item."""

    def __call__(self, images: ImageList, items: Sequence[Item], *, mirrored: bool = False) -> list[BoxList]:
        """Detections of every item. `mirrored`: the pictures are, so left and right change places in texts."""
        ...


class ClosedSetFinder:
    """Asks a model that knows its classes."""

    def __init__(self, model: nn.Module):
        self.model = model

    def __call__(self, images: ImageList, items: Sequence[Item], *, mirrored: bool = False) -> list[BoxList]:
        return [found.to("cpu") for found in self.model(images)]


class ForwardPromptFinder:
    """Asks any model that is called as model(images, captions=..., positive_map=...), for one caption after another."""

    def __init__(self, model: nn.Module, prompts: Sequence[Prompt]):
        self.model, self.prompts = model, prompts

    def __call__(self, images: ImageList, items: Sequence[Item], *, mirrored: bool = False) -> list[BoxList]:
        rounds = [
            self.model(images, captions=[prompt.caption] * len(items), positive_map=prompt.label_to_tokens)
            for prompt in self.prompts
        ]
        return [cat_boxlist([part.to("cpu") for part in found]) for found in zip(*rounds, strict=True)]


class ForwardCaptionFinder:
    """The same for captions of the items, one after another, as the original, each with a map of its own."""

    def __init__(self, model: nn.Module):
        self.model = model

    def __call__(self, images: ImageList, items: Sequence[Item], *, mirrored: bool = False) -> list[BoxList]:
        found: list[BoxList] = []
        for number, item in enumerate(items):
            picture = images if len(items) == 1 else _pictures(images, [number])
            found += self.model(picture, captions=[caption_of(item)], positive_map=phrase_map(item))
        return [part.to("cpu") for part in found]


class PromptFinder:
    """Asks a GLIP for the classes of prompts: every prompt is encoded once, and every picture once.

    Args:
        model: in evaluation mode; its weights must not change.
        prompts: together they name all classes; each label occurs in one of them.
    """

    def __init__(self, model: GeneralizedVLRCNN, prompts: Sequence[Prompt]):
        self.model = model
        self.prompts = list(prompts)
        self._encoded: dict[bool, tuple[TextFeatures, TokenMap]] = {}

    def __call__(self, images: ImageList, items: Sequence[Item], *, mirrored: bool = False) -> list[BoxList]:
        text, maps = self._texts(mirrored)
        pictures, texts = len(images), len(text)
        if self.model.backbone.reads_text:
            rounds = [self._round(None, images, text, maps, number) for number in range(texts)]
        else:
            features = self.model.encode_images(images)
            if texts > 1 and (texts >= pictures or not self.model.rpn.head.tower_reads_text):
                alone = [self.model.detect(one_picture(features, number), text, maps) for number in range(pictures)]
                return [_joined(found) for found in alone]
            rounds = [self._round(features, images, text, maps, number) for number in range(texts)]
        return [_joined(found) for found in zip(*rounds, strict=True)]

    def start(self, images: ImageList, items: Sequence[Item]) -> Callable[[], list[BoxList]]:
        """As a call, begun: the call of what is returned has the detections.

        With one prompt on a GPU this does not wait for them, so that the next batch may begin before.
        """
        text, maps = self._texts(mirrored=False)
        if len(text) > 1 or self.model.backbone.reads_text:
            found = self(images, items)
            return lambda: found
        rows = text.rows(torch.zeros(len(images), dtype=torch.int64, device=text.hidden.device))
        return detect_later(self.model, self.model.encode_images(images), rows, maps)

    def _round(
        self, features: FeaturePyramid | None, images: ImageList, text: TextFeatures, maps: TokenMap, number: int
    ) -> list[BoxList]:
        """What one text finds on all pictures."""
        rows = text.rows(torch.full((len(images),), number, device=text.hidden.device))
        if features is None:
            features = self.model.encode_images(images, rows)
        return self.model.detect(features, rows, TokenMap(*(part[number : number + 1] for part in maps)))

    def _texts(self, mirrored: bool) -> tuple[TextFeatures, TokenMap]:
        """The encoded prompts and their maps, for pictures as they are or mirrored."""
        if mirrored and all(mirror_text(prompt.caption).text == prompt.caption for prompt in self.prompts):
            mirrored = False
        if mirrored not in self._encoded:
            tokenizer, limit = self.model.tokenizer, self.model.text_policy.max_length
            prompts = [mirrored_prompt(prompt, tokenizer, limit) for prompt in self.prompts]
            prompts = prompts if mirrored else self.prompts
            text = self.model.encode_text([prompt.caption for prompt in prompts])
            maps = [prompt.label_to_tokens for prompt in prompts]
            self._encoded[mirrored] = (text, self._token_map(maps, text))
        return self._encoded[mirrored]

    def _token_map(self, maps: Sequence[PositiveMap], text: TextFeatures) -> TokenMap:
        aggregation = self.model.rpn.box_selector_test.score_agg
        return build_token_map(list(maps), text.hidden.shape[1], aggregation=aggregation, device=self.model.device)


class KnowledgeFinder(PromptFinder):
    """Asks a GLIP for classes that it knows by descriptions, one sentence per class (GLIPKNOW).

    Args:
        model: in evaluation mode, with `knowledge`.
        categories: label -> class name, which is looked up as it stands.
        per_text: classes that are read together; all of them affect each other where text and picture are fused early.
    """

    def __init__(self, model: GeneralizedVLRCNN, categories: Mapping[int, str], per_text: int):
        super().__init__(model, ())
        labels = sorted(categories)
        self.chunks = [
            {label: categories[label] for label in labels[start : start + per_text]}
            for start in range(0, len(labels), per_text)
        ]

    def _texts(self, mirrored: bool) -> tuple[TextFeatures, TokenMap]:
        """The encoded classes; descriptions stay as they are when pictures are mirrored."""
        if False not in self._encoded:
            texts = [self._encode_classes(list(chunk.values())) for chunk in self.chunks]
            text = join_texts(texts)
            maps = [{label: [place] for place, label in enumerate(chunk)} for chunk in self.chunks]
            self._encoded[False] = (text, self._token_map(maps, text))
        return self._encoded[False]

    def _encode_classes(self, names: Sequence[str]) -> TextFeatures:
        """One text whose tokens are the classes and, masked, an empty sentence."""
        knowledge = self.model.knowledge
        assert knowledge is not None
        sentences = [knowledge.caption(name) for name in names] + [""]
        parts = []
        for start in range(0, len(sentences), SENTENCES_AT_A_TIME):
            tokens = self.model.tokenize(sentences[start : start + SENTENCES_AT_A_TIME], trim=True)
            encoded = self.model.encode_tokens(tokens.input_ids, tokens.attention_mask)
            parts.append(class_features(encoded, knowledge.aggregation))
        hidden, embedded = (torch.cat(part)[None] for part in zip(*parts, strict=True))
        masks = torch.ones(1, len(sentences), dtype=torch.int64, device=hidden.device)
        masks[:, -1] = 0
        return TextFeatures(None, embedded, masks, hidden)


def join_texts(texts: Sequence[TextFeatures]) -> TextFeatures:
    """Texts (B_i, T_i) as one (sum B_i, max T_i); what is added is masked."""
    length = max(text.hidden.shape[1] for text in texts)

    def padded(tensor: Tensor) -> Tensor:  # (B, T, ...)
        sides = [0, 0] * (tensor.dim() - 2) + [0, length - tensor.shape[1]]
        return F.pad(tensor, sides)

    return TextFeatures(
        aggregate=None,
        embedded=torch.cat([padded(text.embedded) for text in texts]),
        masks=torch.cat([padded(text.masks) for text in texts]),
        hidden=torch.cat([padded(text.hidden) for text in texts]),
    )


class CaptionFinder:
    """Asks a GLIP for the phrases of the items' captions; a picture that several captions of a batch describe is
    encoded once.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: GeneralizedVLRCNN):
        self.model = model

    def __call__(self, images: ImageList, items: Sequence[Item], *, mirrored: bool = False) -> list[BoxList]:
        captions = [caption_of(item) for item in items]
        maps = [phrase_map(item) for item in items]
        if mirrored:
            captions, maps = self._mirrored(captions, maps, items)
        text = self.model.encode_text(captions)
        if self.model.backbone.reads_text:
            found = self.model.detect(self.model.encode_images(images, text), text, maps)
            return [part.to("cpu") for part in found]
        shown: dict[Hashable, list[int]] = {}
        for number, item in enumerate(items):
            shown.setdefault(item.picture, []).append(number)
        groups = list(shown.values())
        first = [group[0] for group in groups]
        features = self.model.encode_images(images if len(first) == len(items) else _pictures(images, first))
        if len(first) == len(items):
            return [part.to("cpu") for part in self.model.detect(features, text, maps)]
        results: list[BoxList] = [None] * len(items)  # type: ignore[list-item]
        for number, group in enumerate(groups):
            rows = text.rows(torch.tensor(group, device=text.hidden.device))
            found = self.model.detect(one_picture(features, number), rows, [maps[i] for i in group])
            for i, part in zip(group, found, strict=True):
                results[i] = part.to("cpu")
        return results

    def _mirrored(self, captions: list[str], maps: list[PositiveMap], items: Sequence[Item]):
        limit = self.model.text_policy.max_length
        for number, item in enumerate(items):
            changed = mirror_text(captions[number])
            if changed.text == captions[number]:
                continue
            encoding = self.model.tokenizer(changed.text)
            spans = [[changed.move(tuple(span)) for span in phrase] for phrase in item.spans]
            captions[number] = changed.text
            maps[number] = {label: token_positions(encoding, phrase, limit) for label, phrase in enumerate(spans, 1)}
        return captions, maps


def caption_of(item: Item) -> str:
    """The caption of an item. Raises: ValueError if it has none."""
    if not isinstance(item.target, BoxList) or not item.target.has_field("caption"):
        raise ValueError(
            "the test set has no captions; TEST.EVAL_TASK grounding needs them, categories need detection "
            f"(picture {item.picture})"
        )
    return item.target.get_field("caption")


def phrase_map(item: Item) -> dict[int, list[int]]:
    """{number of the phrase, from 1: its tokens}. Raises: ValueError for a target without phrases to evaluate."""
    if not item.target.has_field("positive_map_eval"):
        raise ValueError(
            "the test set has captions without phrases to evaluate (tokens_positive_eval); "
            f"TEST.EVAL_TASK grounding needs them (picture {item.picture})"
        )
    return label_to_tokens(item.target.get_field("positive_map_eval"))


def mirrored_prompt(prompt: Prompt, tokenizer, max_tokens: int) -> Prompt:
    """The prompt with left and right exchanged."""
    changed = mirror_text(prompt.caption)
    if changed.text == prompt.caption:
        return prompt
    encoding = tokenizer(changed.text)
    spans = {label: [changed.move(tuple(span)) for span in parts] for label, parts in prompt.spans.items()}
    tokens = {label: token_positions(encoding, parts, max_tokens) for label, parts in spans.items()}  # type: ignore[arg-type]
    return Prompt(changed.text, {k: v for k, v in tokens.items() if v}, prompt.phrases, spans)  # type: ignore[arg-type]


def one_picture(features: FeaturePyramid, number: int) -> FeaturePyramid:
    """The features of one picture of a batch."""
    part = slice(number, number + 1)
    return FeaturePyramid(
        tuple(level[part] for level in features.levels),
        list(features.image_sizes[part]),
        None if features.c4 is None else features.c4[part],
        visual=None if features.visual is None else features.visual[part],
    )


def _pictures(images: ImageList, numbers: Sequence[int]) -> ImageList:
    return ImageList(images.tensors[list(numbers)], [images.image_sizes[number] for number in numbers])


def _joined(found: Sequence[BoxList]) -> BoxList:
    """What several texts found on one picture, on the CPU."""
    return cat_boxlist([part.to("cpu") for part in found])
