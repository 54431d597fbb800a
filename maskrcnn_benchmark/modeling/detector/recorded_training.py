"""Training with the network recorded as CUDA graphs; see `GeneralizedVLRCNN.use_training_graphs`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from maskrcnn_benchmark.modeling.accelerated.frozen_parts import FrozenImageEncoder
from maskrcnn_benchmark.modeling.accelerated.training_graphs import TrainingGraphs, why_not_recorded
from maskrcnn_benchmark.modeling.language_backbone import TextFeatures
from maskrcnn_benchmark.modeling.rpn.vldyhead import HeadOutputs
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList

from .many_texts import check_one_text_per_image

if TYPE_CHECKING:
    from .generalized_vl_rcnn import GeneralizedVLRCNN


class RecordedTraining:
    """The losses of a detector whose network is recorded where shapes come again.

    A recording begins with tokens and pictures. What is encoded once and remembered, the text of a frozen encoder and
    features of pictures, is encoded outside. Under autocast frozen parts run in their accelerated forms.

    Attributes:
        from_tokens, from_features: recordings that begin with tokens, and with encoded text.
    Raises: ValueError where the network cannot be recorded.
    """

    def __init__(self, model: "GeneralizedVLRCNN"):
        reason = why_not_recorded(model)
        if reason is not None:
            raise ValueError(f"SOLVER.CUDA_GRAPHS: training cannot be recorded with {reason}")
        self.model = model
        self.frozen_images = FrozenImageEncoder(model.backbone)
        self.from_tokens = TrainingGraphs(model, self.predict_from_tokens)
        self.from_features = TrainingGraphs(model, self.predict_from_features)

    def losses(
        self, images: ImageList, targets: list[BoxList], captions: Sequence[str], positive_map: Tensor
    ) -> dict[str, Tensor]:
        """The losses of `GeneralizedVLRCNN.forward`, whose arguments these are."""
        model = self.model
        if model.remembers_text:
            text = model.encode_text(captions)
            check_one_text_per_image(text, len(images))
            outputs, masks = self.from_features(*self._features(images, text))
        else:
            tokens = model.tokenize(captions, trim=False)
            check_one_text_per_image(tokens.input_ids, len(images))
            outputs, masks = self.from_tokens(
                images.tensors, tokens.input_ids, tokens.attention_mask, tokens.special_tokens_mask
            )
        anchors = model.rpn.anchor_generator(images, outputs.centerness)  # of the levels only their sizes matter
        return model.rpn.losses(outputs, targets, anchors, captions, positive_map, masks, None)

    def _features(self, images: ImageList, text: TextFeatures) -> tuple[Tensor, ...]:
        """Arguments of `predict_from_features`, with encoded pictures where they are remembered."""
        pictures: tuple[Tensor, ...] = (images.tensors,)
        if self.model.picture_memory is not None and images.names is not None:
            pictures = self.model.encode_images(images).levels
        aggregate = () if text.aggregate is None else (text.aggregate,)
        return text.hidden, text.embedded, text.masks, *pictures, *aggregate

    def predict_from_tokens(
        self, images: Tensor, input_ids: Tensor, attention_mask: Tensor, special_tokens_mask: Tensor
    ) -> tuple[HeadOutputs, Tensor]:
        """Normalised images (B, 3, H, W), tokens (B, T) -> predictions before loss or selection, text masks (B, T)."""
        return self._predict(images, self.model.encode_tokens(input_ids, attention_mask, special_tokens_mask))

    def predict_from_features(
        self, hidden: Tensor, embedded: Tensor, masks: Tensor, *others: Tensor
    ) -> tuple[HeadOutputs, Tensor]:
        """Text features and, in `others`, pictures (B, 3, H, W) or all of their levels (B, C, H_l, W_l), then the
        aggregate (B, D) of the text where it has one -> predictions before loss or selection, text masks (B, T).
        """
        pictures = [picture for picture in others if picture.dim() == 4]
        text = TextFeatures(others[-1] if others[-1].dim() == 2 else None, embedded, masks, hidden)
        if len(pictures) > 1:
            return self.model.rpn.predict(tuple(pictures), text, None), masks
        return self._predict(pictures[0], text)

    def _predict(self, images: Tensor, text: TextFeatures) -> tuple[HeadOutputs, Tensor]:
        levels, c4, fused = self.frozen_images(images) or self.model.run_backbone(images, text)
        text = fused or text
        return self.model.rpn.predict(levels, text, c4), text.masks
