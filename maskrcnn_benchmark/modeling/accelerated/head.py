"""The vision-language head without its losses: tower and predictions on one sequence of locations."""

from typing import NamedTuple

import torch
from torch import Tensor

from maskrcnn_benchmark.modeling.fusion import BertEncoderLayer, DummyLayer, VLFuse
from maskrcnn_benchmark.modeling.fusion.bi_attention import CLAMP_LIMIT
from maskrcnn_benchmark.modeling.heads.alignment import unit_words
from maskrcnn_benchmark.modeling.heads.dyconv import DyConv
from maskrcnn_benchmark.modeling.rpn.vldyhead import VLDyHead
from maskrcnn_benchmark.ops.kernels.swin_norm import LayerNormWeights, add_layer_norm

from . import fusion
from .dyconv import AcceleratedDyConv, layer_plan
from .fusion import AcceleratedFusion, AcceleratedTextLayer
from .precision import Precision
from .pyramid import PyramidShape


class Predictions(NamedTuple):
    """Raw predictions in float32: word logits (B, N, T), box codes (B, N, 4), centerness logits (B, N).

    For a tower that reads no text the last two have one row for each image, the first one for each text.
    """

    word_logits: Tensor
    box_codes: Tensor
    centerness: Tensor


class TowerLayer(NamedTuple):
    """One round of the tower; without early fusion the first two are None."""

    fusion: AcceleratedFusion | None
    text: AcceleratedTextLayer | None
    dyconv: AcceleratedDyConv


def supports(head: VLDyHead) -> str | None:
    """Why a head cannot be accelerated, or None if it can."""
    if not head.use_dot_product or head.contrastive_align_projection_image is not None:
        return "its scores are not dot products of locations and words"
    if head.num_anchors != 1:
        return f"it has {head.num_anchors} anchors per location"
    for module in head.dyhead_tower:
        reason = _unsupported(module)
        if reason is not None:
            return reason
    return None


def _unsupported(module) -> str | None:
    if isinstance(module, DyConv):
        return AcceleratedDyConv.supports(module)
    if isinstance(module, VLFuse):
        block = getattr(module, "b_attn", None)
        return "its fusion is not MHA-B" if block is None else fusion.supports(block)
    if isinstance(module, BertEncoderLayer | DummyLayer):
        return None
    return f"its tower has a {type(module).__name__}"


def full_matmul(a: Tensor, b: Tensor) -> Tensor:
    """Batched product (B, N, K) @ (B, K, M) of operands of one dtype, as float32 throughout."""
    if a.dtype == torch.float32:
        return a @ b
    if a.is_cuda:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


class AcceleratedHead:
    """Levels and text -> raw predictions, with weights prepared for one precision.

    Args:
        head: a head that `supports` accepts; its weights must not change as long as this is used.
        precision: of activations and products.
    """

    def __init__(self, head: VLDyHead, precision: Precision):
        self.precision = precision
        self.layers: list[TowerLayer] = []
        fuse = text = None
        for module in head.dyhead_tower:
            if isinstance(module, VLFuse):
                fuse = AcceleratedFusion(module.b_attn, precision)
            elif isinstance(module, BertEncoderLayer):
                text = AcceleratedTextLayer(module, precision)
            elif isinstance(module, DyConv):
                self.layers.append(TowerLayer(fuse, text, AcceleratedDyConv(module, precision)))
                fuse = text = None
        self.use_fused_text, self.clamp = head.use_fused_text, head.clamp_dot_product
        boxes = torch.cat((head.bbox_pred.weight, head.centerness.weight)).flatten(1)
        self.box_weight = precision.operand(boxes.t()).contiguous()  # (C, 5)
        self.box_bias = torch.cat((head.bbox_pred.bias, head.centerness.bias)).detach().float()
        self.scales = torch.cat([scale.scale.detach().float().flatten() for scale in head.scales])
        self.word_projection = head.dot_product_projection_text
        self.word_bias, self.bias0 = head.bias_lang.detach(), head.bias0.detach()
        self.temperature = head.log_scale.detach().exp()

    @property
    def reads_text(self) -> bool:
        """Whether the tower mixes image and text."""
        return any(layer.fusion is not None for layer in self.layers)

    def __call__(
        self, visual: Tensor, shape: PyramidShape, hidden: Tensor, masks: Tensor, embedding: Tensor
    ) -> Predictions:
        """visual (B, N, C), hidden and embedding (P, T, D), masks (P, T) -> predictions for P texts.

        B equals P, or is 1: then all texts are read with one image.
        """
        visual, hidden = self.run_tower(visual, shape, hidden, masks)
        words, bias = self.words(hidden if self.use_fused_text else embedding)
        words = (words / self.temperature).to(visual.dtype).transpose(1, 2)
        if len(visual) == len(words):
            logits = full_matmul(visual, words)
        else:  # one image, several texts
            logits = full_matmul(visual, words.transpose(0, 1).flatten(1)[None])[0]
            logits = logits.unflatten(1, (len(words), -1)).transpose(0, 1)
        logits = logits + bias[:, None]
        if self.clamp:
            logits = logits.clamp(-CLAMP_LIMIT, CLAMP_LIMIT)
        boxes = full_matmul(visual, self.box_weight.expand(len(visual), -1, -1)) + self.box_bias
        codes = boxes[..., :4] * self.location_scales(shape)[:, None]
        return Predictions(logits, codes, boxes[..., 4])

    def run_tower(self, visual: Tensor, shape: PyramidShape, hidden: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, N, C) and text (P, T, D) -> both after fusion and dynamic convolutions."""
        if self.reads_text and len(visual) != len(hidden):
            visual = visual.expand(len(hidden), -1, -1)
        norms = [None if layer.fusion is None else layer.fusion.norm for layer in self.layers] + [None]
        if norms[0] is not None:
            weight, bias, eps = norms[0]
            rows = visual.flatten(0, 1).contiguous()
            norm = LayerNormWeights(weight, bias, eps)
            visual = add_layer_norm(None, rows, norm, self.precision.dtype, needs_total=False)[1].view(visual.shape)
        hidden = hidden.float()
        for layer, next_norm in zip(self.layers, norms[1:], strict=True):
            if layer.fusion is not None:
                visual, hidden = layer.fusion(visual, hidden, masks)
            if layer.text is not None:
                hidden = layer.text(hidden, masks)
            visual = layer.dyconv(visual, shape, next_norm)
        return visual, hidden

    def tables(self, shape: PyramidShape) -> list:
        """What the layers read beside their inputs for pyramids of a shape, on the device."""
        device = self.box_weight.device
        return [layer_plan(shape, device, layer.dyconv.tuning.block_rows) for layer in self.layers]

    def words(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Text (P, T, D) -> words in the space of the locations (P, T, C), and their biases (P, T); float32."""
        unit = unit_words(text.float())
        return self.word_projection(unit / 2.0), unit @ self.word_bias + self.bias0

    def location_scales(self, shape: PyramidShape) -> Tensor:
        """(N,) the learnt scale of the level of every location."""
        return torch.cat([self.scales[i].expand(n) for i, n in enumerate(shape.lengths)])
