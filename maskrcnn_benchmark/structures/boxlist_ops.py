"""Functions on box lists: overlap, suppression, filtering, joining. All use inclusive pixels (+1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maskrcnn_benchmark.ops.nms import ml_nms, nms
from maskrcnn_benchmark.structures.bounding_box import BoxList


def pairwise_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union (N, M) of boxes (N, 4) and (M, 4) in xyxy with inclusive ends."""
    area1 = (boxes1[:, 2] - boxes1[:, 0] + 1) * (boxes1[:, 3] - boxes1[:, 1] + 1)
    area2 = (boxes2[:, 2] - boxes2[:, 0] + 1) * (boxes2[:, 3] - boxes2[:, 1] + 1)
    top_left = torch.maximum(boxes1[:, None, :2], boxes2[:, :2])
    bottom_right = torch.minimum(boxes1[:, None, 2:], boxes2[:, 2:])
    sides = (bottom_right - top_left + 1).clamp(min=0)
    intersection = sides[..., 0] * sides[..., 1]
    return intersection / (area1[:, None] + area2 - intersection)


def boxlist_iou(boxlist1: BoxList, boxlist2: BoxList) -> Tensor:
    """Intersection over union (N, M) of the boxes of two lists; RuntimeError if their image sizes differ."""
    if boxlist1.size != boxlist2.size:
        raise RuntimeError(f"box lists belong to images of different sizes: {boxlist1} and {boxlist2}")
    return pairwise_iou(boxlist1.convert("xyxy").bbox, boxlist2.convert("xyxy").bbox)


def boxlist_nms(boxlist: BoxList, nms_thresh: float, max_proposals: int = -1, score_field: str = "scores") -> BoxList:
    """Suppression that ignores classes.

    Args:
        boxlist: boxes with a score field.
        nms_thresh: a box is dropped if its IoU with a better one is larger; 0 or less keeps all boxes.
        max_proposals: keep at most that many, the best; -1 keeps all.
        score_field: name of the field.

    Returns: the kept boxes by descending score, in the mode of the input.
    """
    if nms_thresh <= 0:
        return boxlist
    scores = boxlist.get_field(score_field)
    keep = nms(boxlist.convert("xyxy").bbox, scores, nms_thresh)
    keep = keep[scores[keep].argsort(descending=True, stable=True)]
    return boxlist[keep[:max_proposals] if max_proposals > 0 else keep]


def boxlist_ml_nms(
    boxlist: BoxList,
    nms_thresh: float,
    max_proposals: int = -1,
    score_field: str = "scores",
    label_field: str = "labels",
) -> BoxList:
    """Suppression among boxes of the same label.

    Args:
        boxlist: boxes with a score and a label field.
        nms_thresh: a box is dropped if its IoU with a better one of its label is larger; 0 or less keeps all boxes.
        max_proposals: keep at most that many, the best; -1 keeps all.
        score_field, label_field: names of the fields.

    Returns: the kept boxes in their order in the input.
    """
    if nms_thresh <= 0:
        return boxlist
    scores = boxlist.get_field(score_field)
    keep = ml_nms(boxlist.convert("xyxy").bbox, scores, boxlist.get_field(label_field), nms_thresh)
    if 0 < max_proposals < len(keep):
        best = scores[keep].argsort(descending=True, stable=True)[:max_proposals]
        keep = keep[best.sort().values]
    return boxlist[keep]


def remove_small_boxes(boxlist: BoxList, min_size: float) -> BoxList:
    """Only the boxes whose inclusive width and height are at least `min_size` pixels."""
    sides = boxlist.convert("xywh").bbox[:, 2:]
    return boxlist[(sides >= min_size).all(dim=1)]


def cat_boxlist(bboxes: Sequence[BoxList]) -> BoxList:
    """Joins box lists of one image; ValueError unless size, mode and field names are equal.

    Fields of the image are taken from the first list.
    """
    if not isinstance(bboxes, list | tuple) or not bboxes:
        raise ValueError(f"cat_boxlist needs a non-empty list of BoxList, got {bboxes!r}")
    first = bboxes[0]
    for i, other in enumerate(bboxes[1:], start=1):
        for name, a, b in (
            ("size", first.size, other.size),
            ("mode", first.mode, other.mode),
            ("fields", set(first.fields()), set(other.fields())),
        ):
            if a != b:
                raise ValueError(f"box lists 0 and {i} differ in {name}: {a} and {b}")
    result = BoxList(torch.cat([boxes.bbox for boxes in bboxes]), first.size, first.mode)
    for field in first.fields():
        data = [boxes.get_field(field) for boxes in bboxes]
        if not first.is_per_box(field):
            result.add_field(field, data[0], per_box=False)
        elif isinstance(data[0], Tensor):
            result.add_field(field, torch.cat(data))
        else:
            result.add_field(field, [entry for part in data for entry in part])
    return result
