"""GLIP (arXiv:2112.03857): a detector whose classes are the phrases of a caption."""

import contextlib
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.modeling.accelerated.frozen_parts import accelerate_frozen_layers
from maskrcnn_benchmark.modeling.accelerated.inference import AcceleratedDetector, StartedDetection
from maskrcnn_benchmark.modeling.accelerated.precision import find_precision
from maskrcnn_benchmark.modeling.accelerated.pyramid import PyramidShape
from maskrcnn_benchmark.modeling.backbone import BackboneOutput, build_backbone
from maskrcnn_benchmark.modeling.freezing import FreezingPlan
from maskrcnn_benchmark.modeling.language_backbone import TextFeatures, build_language_backbone, build_tokenizer
from maskrcnn_benchmark.modeling.language_backbone.knowledge import (
    Knowledge,
    classes_as_tokens,
    positive_map_of_classes,
)
from maskrcnn_benchmark.modeling.postprocess.token_scores import TokenMap, to_device, tokens_named
from maskrcnn_benchmark.modeling.registry import META_ARCHITECTURES
from maskrcnn_benchmark.modeling.rpn import build_rpn
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList, to_image_list
from maskrcnn_benchmark.text.mlm import CorruptedTokens, corrupt_tokens

from .acceleration import Acceleration
from .features import FeaturePyramid, PictureMemory, RegionWordFeatures
from .frozen_text import TextMemory
from .many_texts import check_one_text_per_image, maps_of_texts, repeat_outputs, texts_at_a_time
from .recorded_training import RecordedTraining
from .text_policy import TextPolicy

LabelToTokens = Mapping[int, Sequence[int]]

TOKEN_BUCKET = 16  # accelerated text lengths are multiples of it, so that recordings fit more captions
RECORDED_TOKEN_BUCKET = 64  # the same in recorded training, where a recording takes seconds


class GeneralizedVLRCNN(nn.Module):
    """Image encoder, text encoder and vision-language head.

    Args:
        backbone, language_backbone, rpn: the three parts; tokenizer: a fast Hugging Face tokenizer.
        text_policy: how captions become tokens; freezing: which parts are not trained.
        mlm: corrupt captions in training; mlm_only_positives: score only the words that the greenlight map allows.
        knowledge: one sentence per class instead of one caption, or None.
    """

    training_fields = (
        "labels", "original_od_label", "positive_map_for_od_labels", "tokens_positive", "caption", "label_names",
    )  # fmt: skip
    """Fields of a target that training reads; token maps come once for the whole batch."""

    def __init__(
        self,
        backbone: nn.Module,
        language_backbone: nn.Module,
        rpn: nn.Module,
        tokenizer,
        *,
        text_policy: TextPolicy = TextPolicy(),  # noqa: B008  an immutable NamedTuple
        freezing: FreezingPlan = FreezingPlan(),  # noqa: B008  a frozen dataclass
        mlm: bool = False,
        mlm_only_positives: bool = True,
        knowledge: Knowledge | None = None,
    ):
        super().__init__()
        self.backbone = backbone
        self.language_backbone = language_backbone
        self.rpn = rpn
        self.tokenizer = tokenizer
        self.roi_heads = None
        self.text_policy, self.freezing = text_policy, freezing
        self.mlm, self.mlm_only_positives, self.knowledge = mlm, mlm_only_positives, knowledge
        self.acceleration: Acceleration | None = None
        self.recorded_training: RecordedTraining | None = None
        self.text_memory = TextMemory()
        self.picture_memory: PictureMemory | None = None
        self.register_load_state_dict_post_hook(_forget_weights)
        self.freezing.freeze_at_construction(self)

    @classmethod
    def from_config(cls, cfg) -> "GeneralizedVLRCNN":
        fuse = cfg.MODEL.DYHEAD.FUSE_CONFIG
        switches = {f"MODEL.{key}": cfg.MODEL[key] for key in ("MASK_ON", "KEYPOINT_ON")}
        for key, is_on in {**switches, "MODEL.RPN.FORCE_BOXES": cfg.MODEL.RPN.FORCE_BOXES}.items():
            if is_on:
                raise ValueError(f"{key} True needs a second stage, which is not implemented; set it False")
        return cls(
            build_backbone(cfg),
            build_language_backbone(cfg),
            build_rpn(cfg),
            build_tokenizer(cfg.MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE, mlm=fuse.MLM_LOSS),
            text_policy=TextPolicy.from_config(cfg),
            freezing=FreezingPlan.from_config(cfg),
            mlm=fuse.MLM_LOSS,
            mlm_only_positives=fuse.MLM_LOSS_FOR_ONLY_POSITIVES,
            knowledge=Knowledge.from_config(cfg),
        )

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def train(self, mode: bool = True) -> "GeneralizedVLRCNN":
        """Sets the mode of all modules, then fixes what the configuration freezes; returns the model."""
        super().train(mode)
        self.freezing.apply(self)
        if self.acceleration is not None:
            self.acceleration.forget()
        return self

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        _forget_weights(self)
        return self

    def use_precision(self, name: str | None, *, use_graphs: bool = True) -> "GeneralizedVLRCNN":
        """Sets how this model infers on a GPU from now on; returns the model. Training is not concerned.

        The weights are prepared at the first call and anew after `train`, `to` and `load_state_dict`; after other
        changes of the weights call this again. The results carry no gradients.

        Args:
            name: "bf16", "fp16", "tf32" or "fp32"; None runs the modules as PyTorch is set, autocast included.
            use_graphs: record CUDA graphs of shapes that come again.
        Raises: ValueError for another name.
        """
        self.acceleration = None if name is None else Acceleration(find_precision(name), use_graphs=use_graphs)
        return self

    def forget_prepared_weights(self) -> None:
        """To be called after weights were changed in place: what was prepared or recorded of them is made anew."""
        _forget_weights(self)
        self.use_training_graphs(self.recorded_training is not None)

    def use_training_graphs(self, is_on: bool = True) -> "GeneralizedVLRCNN":
        """Records the network as CUDA graphs in training, where shapes come again; returns the model.

        That saves the time of launching thousands of kernels, which is more than computing takes for small batches.
        The backward pass of a call must come before the next call. Under autocast frozen parts run in their fast forms,
        but for features that are remembered: see `accelerated.frozen_parts`. On a CPU nothing changes.

        Raises: ValueError where the network cannot be recorded.
        """
        self.recorded_training = RecordedTraining(self) if is_on else None
        accelerate_frozen_layers(self.rpn, is_on)
        return self

    def accelerated_form(self) -> AcceleratedDetector | None:
        """What computes inference in place of the modules, where `use_precision` and the device allow it; else None."""
        return None if self.training or self.acceleration is None else self.acceleration.detector(self)

    def _plain_numbers(self) -> contextlib.AbstractContextManager:
        if self.training or self.acceleration is None:
            return contextlib.nullcontext()
        return self.acceleration.plain_numbers(self.device)

    def tokenize(self, captions: Sequence[str], *, trim: bool, min_tokens: int = 0):
        """Captions -> input_ids, attention_mask and special_tokens_mask, each (B, T), on the model's device.

        Captions over the limit are cut and keep their final [SEP]. With `trim` T is the longest caption, unless that
        has less than min_tokens tokens.
        """
        if isinstance(captions, str):
            raise ValueError(f"captions must be a list of strings, one per image, got the string {captions!r}")
        policy = self.text_policy
        bucket = self._token_bucket(trim)
        tokens = self.tokenizer(
            list(captions),
            max_length=policy.max_length,
            padding="max_length" if policy.pad_max and not trim else "longest",
            pad_to_multiple_of=bucket if bucket and policy.max_length % bucket == 0 else None,
            return_special_tokens_mask=True,
            return_tensors="pt",
            truncation=True,
        )
        if trim and tokens.input_ids.shape[1] < min_tokens:
            return self.tokenize(captions, trim=False)
        return tokens.to(self.device)

    def _token_bucket(self, trim: bool) -> int | None:
        """What text lengths are multiples of, where that changes no result and recordings then serve more captions."""
        if self.training and self.recorded_training is not None:
            return RECORDED_TOKEN_BUCKET
        return TOKEN_BUCKET if trim and self.accelerated_form() else None

    def encode_text(
        self, captions: Sequence[str], greenlight_map: Tensor | None = None, *, min_tokens: int = 0
    ) -> TextFeatures:
        """Captions, one per image -> features that `detect` takes.

        Args:
            captions: B strings; greenlight_map: (B, T) words that masked language modelling may use.
            min_tokens: at inference text is padded to the longest caption only, where that changes no result, but to
                MAX_QUERY_LEN if a positive map names tokens beyond it: one more than the last of them.
        """
        different = list(dict.fromkeys(captions))
        if not self.training and not isinstance(captions, str) and len(different) < len(captions):
            text = self.encode_text(different, min_tokens=min_tokens)
            rows = [different.index(caption) for caption in captions]
            return text.rows(to_device(torch.tensor(rows), self.device))
        if self.remembers_text and not isinstance(captions, str):
            return self.text_memory(captions, self.device, lambda: self._encode_captions(captions, None, 0))
        return self._encode_captions(captions, greenlight_map, min_tokens)

    @property
    def remembers_text(self) -> bool:
        """Whether training encodes a batch of captions once: the encoder is frozen and the captions are left alone."""
        return self.training and self.freezing.language and not self.mlm

    def _encode_captions(self, captions: Sequence[str], greenlight_map: Tensor | None, min_tokens: int) -> TextFeatures:
        tokens = self.tokenize(captions, trim=self.text_policy.trim and not self.training, min_tokens=min_tokens)
        ids, labels = tokens.input_ids, None
        if self.mlm and self.training:
            ids, labels = self.corrupt(ids, greenlight_map if self.mlm_only_positives else None)
        return self.encode_tokens(ids, tokens.attention_mask, tokens.special_tokens_mask, mlm_labels=labels)

    @cached_property
    def vocabulary_ids(self) -> Tensor:
        """(V,) ids of all tokens, on the CPU. Kept, since tokenizers need tens of milliseconds to list them."""
        return torch.tensor(list(self.tokenizer.get_vocab().values()))

    def corrupt(self, input_ids: Tensor, greenlight_map: Tensor | None) -> CorruptedTokens:
        """Masks or replaces some of the (B, T) tokens for masked language modelling."""
        return corrupt_tokens(
            input_ids,
            mask_id=self.tokenizer.mask_token_id,
            pad_id=self.tokenizer.pad_token_id,
            vocabulary_ids=self.vocabulary_ids,
            greenlight_map=greenlight_map,
        )

    def encode_tokens(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        special_tokens_mask: Tensor | None = None,
        *,
        mlm_labels: Tensor | None = None,
    ) -> TextFeatures:
        """Token ids and masks (B, T) -> features; special_tokens_mask is needed with MASK_SPECIAL."""
        frozen = torch.no_grad() if self.freezing.language else contextlib.nullcontext()
        accelerated = self.accelerated_form()
        if accelerated is not None:
            text = accelerated.encode_tokens(input_ids, attention_mask)
        else:
            with frozen, self._plain_numbers():
                text = self.language_backbone({"input_ids": input_ids, "attention_mask": attention_mask})
        masks = text.masks
        if self.text_policy.one_hot_classes:
            masks = torch.zeros_like(masks)
            masks[:, : self.text_policy.one_hot_classes] = 1
        if self.text_policy.mask_special:
            masks = 1 - special_tokens_mask[:, : masks.shape[1]]
        if mlm_labels is not None:  # the encoder may have cut the text to the longest caption
            mlm_labels = mlm_labels[:, : text.hidden.shape[1]]
        return text.replace(masks=masks, mlm_labels=mlm_labels)

    def encode_images(self, images: ImageList, text: TextFeatures | None = None) -> FeaturePyramid:
        """`encode_image` for an ImageList."""
        sizes = [(int(height), int(width)) for height, width in images.image_sizes]
        accelerated = self.accelerated_form()
        if accelerated is not None:
            visual, shape = accelerated.encode_images(images.tensors)
            return FeaturePyramid(tuple(x.permute(0, 3, 1, 2) for x in shape.levels(visual)), sizes, visual=visual)
        if self.picture_memory is not None and self.training and images.names is not None:
            return FeaturePyramid(self.picture_memory(images, lambda one: self.run_backbone(one).levels), sizes)
        levels, c4, text = self.run_backbone(images.tensors, text)
        return FeaturePyramid(levels, sizes, c4, text)

    def run_backbone(self, images: Tensor, text: TextFeatures | None = None) -> BackboneOutput:
        """Normalised images (B, 3, H, W) through the plain backbone, without a graph where it is frozen."""
        is_frozen = self.freezing.body and self.freezing.fpn and not self.backbone.reads_text
        with torch.no_grad() if is_frozen else contextlib.nullcontext(), self._plain_numbers():
            return self.backbone.encode(images, text)

    def encode_image(self, images, text: TextFeatures | None = None) -> FeaturePyramid:
        """Images -> features that `detect` takes any number of times.

        images: ImageList, list of (3, H, W) or a (B, 3, H, W) tensor; text: only for backbones that read it.
        """
        return self.encode_images(to_image_list(images), text)

    def detect(
        self,
        features: FeaturePyramid,
        text: TextFeatures,
        positive_map: LabelToTokens | Sequence[LabelToTokens] | TokenMap | None,
        *,
        return_features: bool = False,
    ) -> list[BoxList] | tuple[list[BoxList], RegionWordFeatures]:
        """Encoded images and text -> detections, best first.

        Args:
            text: one text per image. With one image there may be several: they are read together, as many at a time
                as the memory holds.
            positive_map: label -> token positions, one dict for all texts or one for each; or a TokenMap of either.
            return_features: also return what the alignment logits are made of; needs one text per image.
        Returns: a BoxList per text (pixels of the network input) with `labels` (int64) and `scores`.
        Raises: ValueError if texts and images do not fit, or for features that the configuration does not have.
        """
        text = features.text or text
        num_images, num_texts = len(features.image_sizes), len(text)
        if return_features or num_images > 1 or num_texts < 2:
            check_one_text_per_image(text, num_images)
            return self._detect(features, text, positive_map, return_features=return_features)
        maps_of_texts(positive_map, num_texts, slice(0))  # wrong numbers are refused before anything is computed
        locations = sum(level.shape[-2] * level.shape[-1] for level in features.levels)
        portion = texts_at_a_time(num_texts, locations, self.device)
        detections: list[BoxList] = []
        for first in range(0, num_texts, portion):
            part = slice(first, first + portion)
            detections += self._detect(features, text.rows(part), maps_of_texts(positive_map, num_texts, part))
        return detections

    def _detect(self, features: FeaturePyramid, text: TextFeatures, positive_map, *, return_features: bool = False):
        """`detect` for one text per image, or for one image and as many texts as fit into the memory."""
        head = self.rpn.head
        if return_features and not head.use_dot_product:
            raise ValueError("return_features needs the dot-product branch (USE_DOT_PRODUCT_TOKEN_LOSS True)")
        started = None if return_features else self.start_detection(features, text, positive_map)
        if started is not None:
            return started.boxes()
        with self._plain_numbers():
            return self._detect_plainly(features, text, positive_map, return_features=return_features)

    def start_detection(
        self,
        features: FeaturePyramid,
        text: TextFeatures,
        positive_map: LabelToTokens | Sequence[LabelToTokens] | TokenMap | None,
    ) -> StartedDetection | None:
        """`detect` for one text per image, begun; None where these features are not for accelerated inference."""
        accelerated = self.accelerated_form()
        if accelerated is None or features.visual is None:
            return None
        with torch.no_grad():
            text, embedding = self.rpn.prepare_text(text)
        shape = PyramidShape.of([level.shape[-2:] for level in features.levels])
        return accelerated.start_detection(features.visual, shape, features.image_sizes, text, embedding, positive_map)

    def _detect_plainly(self, features: FeaturePyramid, text: TextFeatures, positive_map, *, return_features: bool):
        head = self.rpn.head
        text, embedding = self.rpn.prepare_text(text)
        levels, repeats = list(features.levels), len(text) // len(features.image_sizes)
        image_sizes = list(features.image_sizes) * repeats
        if repeats > 1 and head.tower_reads_text:
            levels = [level.expand(repeats, -1, -1, -1) for level in levels]
        state = head.run_tower(levels, text)
        outputs = head.predict(state, embedding, with_class_logits=self.rpn.class_logits_in_inference)
        if len(levels[0]) < len(text):
            outputs = repeat_outputs(outputs, repeats)
        anchors = self.rpn.anchor_generator(ImageList(levels[0], image_sizes), levels)
        detections = self.rpn.select(outputs, anchors, positive_map)
        if not return_features:
            return detections
        words, bias = head.project_words(head.words(state, embedding))
        return detections, RegionWordFeatures(state.visual, words, bias, head.log_scale.exp())

    def forward(
        self,
        images,
        targets: Sequence[BoxList] | None = None,
        captions: Sequence[str] | None = None,
        positive_map=None,
        greenlight_map: Tensor | None = None,
        *,
        return_features: bool = False,
    ):
        """Losses in training, detections otherwise.

        Args:
            images: ImageList, list of (3, H, W) tensors or a (B, 3, H, W) tensor, normalised.
            targets: one BoxList per image, needed in training.
            captions: one string per image (with knowledge: one list of class names).
            positive_map: in training (all boxes, T) float, 1 where a token names the box, rows in batch order;
                otherwise label -> token positions, one dict for all images or one for each.
            greenlight_map: (B, T), words that masked language modelling may use: 1 masked and scored, 0 masked, -1 not.
            return_features: at inference, also return RegionWordFeatures.
        Returns: dict of scalar losses, or list of BoxList with `labels` (int64) and `scores`.
        Raises: ValueError without targets in training, without captions, or unless there is one of each per image.
        """
        images = to_image_list(images)
        if self.training:
            targets = self._check_targets(targets, len(images))
        if self.knowledge is not None:
            text, positive_map = self._encode_classes(len(images), targets, captions, positive_map)
        elif captions is None:
            raise ValueError("the detector needs captions, one string per image")
        elif self.training and self.recorded_training is not None:
            return self.recorded_training.losses(images, targets, captions, positive_map)
        else:
            text = self.encode_text(captions, greenlight_map, min_tokens=tokens_named(positive_map))
        check_one_text_per_image(text, len(images))
        features = self.encode_images(images, text)
        if not self.training:
            return self.detect(features, text, positive_map, return_features=return_features)
        _, losses, _ = self.rpn(
            images, features.levels, targets, features.text or text, positive_map, captions, features.c4
        )
        return losses

    def _check_targets(self, targets: Sequence[BoxList | None] | None, num_images: int) -> list[BoxList]:
        """The targets that are not None, on the model's device."""
        if targets is None:
            raise ValueError("training needs targets")
        targets = [target.to(self.device) for target in targets if target is not None]
        if len(targets) != num_images:
            raise ValueError(f"training needs one target per image, got {len(targets)} for {num_images} images")
        return targets

    def _encode_classes(self, batch_size: int, targets, captions, positive_map):
        """One sentence per class -> text whose tokens are classes, and the positive map that fits it."""
        if self.training:
            if captions is not None:
                raise ValueError("with GLIPKNOW.PARALLEL_LANGUAGE_INPUT training makes the captions itself: pass None")
            names = [list(target.get_field("label_names")) for target in targets]
            classes = self.knowledge.training_classes([name for image in names for name in image])
            positive_map = positive_map_of_classes(names, classes).to(self.device)
        else:
            if captions is None or batch_size != 1 or len(captions) != 1 or isinstance(captions[0], str):
                raise ValueError(
                    "with GLIPKNOW.PARALLEL_LANGUAGE_INPUT pass one image and captions=[list of class names]"
                )
            classes = list(captions[0])
        sentences = [self.knowledge.caption(name) for name in classes] + [""]
        tokens = self.tokenize(sentences, trim=True)
        text = self.encode_tokens(tokens.input_ids, tokens.attention_mask)
        return classes_as_tokens(text, self.knowledge.aggregation, batch_size), positive_map


def _forget_weights(model: GeneralizedVLRCNN, *_) -> None:
    model.text_memory.clear()
    if model.acceleration is not None:
        model.acceleration.forget()


META_ARCHITECTURES.register("GeneralizedVLRCNN", GeneralizedVLRCNN.from_config)
