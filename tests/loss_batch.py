"""A small batch for the losses: random outputs, boxes, anchors and maps."""

import torch

from maskrcnn_benchmark.modeling.anchors import AnchorGenerator
from maskrcnn_benchmark.modeling.box_coder import CenterBoxCoder
from maskrcnn_benchmark.modeling.rpn.loss import ATSSLossComputation
from maskrcnn_benchmark.structures.bounding_box import BoxList


def evaluator(**kwargs) -> ATSSLossComputation:
    return ATSSLossComputation(CenterBoxCoder(), **kwargs)


def small_batch(boxes_per_image=(2, 0, 1), tokens=6, requires_grad=True):
    """Pictures of 64 x 96 on two levels; random outputs."""
    torch.manual_seed(0)
    batch, maps = len(boxes_per_image), [(8, 12), (4, 6)]
    generator = AnchorGenerator([(32,), (64,)], (1.0,), (8, 16))
    anchors = generator(torch.zeros(batch, 3, 64, 96), [torch.zeros(1, 1, *hw) for hw in maps])
    targets = []
    for number in boxes_per_image:
        corner = torch.rand(number, 2) * 20
        target = BoxList(torch.cat((corner, corner + 30 + torch.rand(number, 2) * 10), dim=1), (96, 64))
        target.add_field("labels", torch.arange(1, number + 1))
        targets.append(target)
    outputs = {
        "box_cls": [torch.randn(batch, 3, *hw, requires_grad=requires_grad) for hw in maps],
        "box_regression": [torch.randn(batch, 4, *hw, requires_grad=requires_grad) for hw in maps],
        "centerness": [torch.randn(batch, 1, *hw, requires_grad=requires_grad) for hw in maps],
        "dot_product_logits": [torch.randn(batch, h * w, tokens, requires_grad=requires_grad) for h, w in maps],
    }
    positive_map = torch.zeros(sum(boxes_per_image), tokens)
    for row in range(len(positive_map)):
        positive_map[row, 1 + row % 3] = 1
    mask = torch.ones(batch, tokens)
    mask[:, -1] = 0
    return outputs, targets, anchors, positive_map, mask


def run(criterion, batch):
    outputs, targets, anchors, positive_map, mask = batch
    return criterion(**outputs, targets=targets, anchors=anchors, positive_map=positive_map, text_masks=mask)
