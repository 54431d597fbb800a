"""The recorded picture through the accelerated GLIP-T on a GPU: in fp32 the recording, in less its distance from it."""

import functools
from typing import NamedTuple
from unittest import mock

import pytest
import torch
import torchvision
from golden.weights_recipe import BIAS0
from golden_tools import TOLERANCES, load_golden
from parity.model_golden import (
    GLIP_T,
    assert_same_detections,
    build_golden_model,
    golden_image,
    golden_json,
    label_map,
    model_config,
)
from torch import Tensor

from maskrcnn_benchmark.modeling.accelerated.inference import float32_products
from maskrcnn_benchmark.modeling.accelerated.precision import find_precision
from maskrcnn_benchmark.modeling.accelerated.pyramid import PyramidShape
from maskrcnn_benchmark.structures.image_list import to_image_list

pytestmark = [pytest.mark.gpu, pytest.mark.parity]


class Raw(NamedTuple):
    """Raw predictions of all locations: word logits (N, T) and boxes (N, 4) in pixels."""

    logits: Tensor
    boxes: Tensor


@functools.lru_cache(maxsize=1)
def setting():
    """(golden arrays, facts, model on the GPU, images)."""
    npz, facts = load_golden(f"forward_{GLIP_T}.npz"), golden_json(f"forward_{GLIP_T}.json")
    image, _ = golden_image(model_config(GLIP_T), facts["image"])
    model = build_golden_model(model_config(GLIP_T), BIAS0[GLIP_T]).cuda()
    return npz, facts, model, to_image_list([image], 32).to("cuda")


def exact_deform_conv2d(input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, *, mask: Tensor, **geometry):
    """PyTorch's own operator in float32, as the original calls it under autocast, whose own coordinates are 16 bit."""
    with torch.autocast("cuda", enabled=False):
        operands = (x.float().contiguous() for x in (input, offset, weight, bias))
        return torchvision.ops.deform_conv2d(*operands, mask=mask.float().contiguous(), **geometry)


@torch.no_grad()
def raw_predictions(precision: str, *, accelerated: bool) -> Raw:
    """Logits and decoded boxes of the model under PyTorch's switches for the precision, or accelerated in it.

    Without acceleration the convolutions that follow offsets are PyTorch's, in float32.
    """
    _, facts, model, images = setting()
    form = find_precision(precision)
    model.use_precision(precision if accelerated else None)
    autocast = torch.autocast("cuda", form.dtype, enabled=form.is_half and not accelerated)
    plain_operator = mock.patch("maskrcnn_benchmark.layers.deform_conv.deform_conv2d", exact_deform_conv2d)
    with float32_products(form), autocast, plain_operator:
        features = model.encode_image(images)
        text, embedding = model.rpn.prepare_text(model.encode_text([facts["caption"]]))
        shape = PyramidShape.of([level.shape[-2:] for level in features.levels])
        if accelerated:
            logits, codes, _ = model.accelerated_form().predictions(features.visual, shape, text, embedding)
        else:
            head = model.rpn.head
            outputs = head.predict(head.run_tower(features.levels, text), embedding, with_class_logits=False)
            logits = torch.cat(outputs.dot_product_logits, 1)
            codes = torch.cat([level.flatten(2).transpose(1, 2) for level in outputs.bbox_reg], 1)
    model.use_precision(None)
    anchors = torch.cat(model.rpn.anchor_generator.grid_anchors(shape.sizes, codes.device))
    boxes = model.rpn.box_selector_test.box_coder.decode(codes[0].float(), anchors)
    words = len(model.tokenizer(facts["caption"]).input_ids)
    return Raw(logits[0, :, :words].float(), boxes)


@functools.lru_cache(maxsize=1)
def exact() -> Raw:
    return raw_predictions("fp32", accelerated=False)


def distances(raw: Raw) -> Raw:
    """Root mean square differences from the plain float32 predictions."""
    return Raw(*(float((ours - theirs).square().mean().sqrt()) for ours, theirs in zip(raw, exact(), strict=True)))


@torch.no_grad()
def test_fp32_gives_the_recorded_detections():
    npz, facts, model, images = setting()
    model.use_precision("fp32")
    for _ in range(3):  # directly, recorded, replayed
        (found,) = model(
            images, captions=[facts["caption"]], positive_map=label_map(facts["positive_map_label_to_token"])
        )
        labels, scores = found.get_field("labels"), found.get_field("scores")
        assert_same_detections(found.bbox, labels, scores, npz, "det.MEAN.cuda_nms.img0")
    model.use_precision(None)


def test_fp32_gives_the_logits_of_the_plain_model():
    difference = (raw_predictions("fp32", accelerated=True).logits - exact().logits).abs()
    assert float(difference.max()) <= TOLERANCES["dot_logits"].atol
    assert float(difference.square().mean().sqrt()) <= TOLERANCES["dot_logits"].rms


@pytest.mark.parametrize("precision", ["fp16", "bf16", "tf32"])
def test_less_precision_costs_no_more_than_it_costs_the_plain_model(precision):
    plain = distances(raw_predictions(precision, accelerated=False))
    ours = distances(raw_predictions(precision, accelerated=True))
    text = f"{precision}: rms of logits {ours.logits:.3g} (plain {plain.logits:.3g}), "
    text += f"of boxes {ours.boxes:.3g} px (plain {plain.boxes:.3g})"
    assert ours.logits <= 1.25 * plain.logits and ours.boxes <= 1.25 * plain.boxes, text
