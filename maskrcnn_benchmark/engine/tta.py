"""Test-time augmentation: a picture is read at several sizes and mirrored, and what is found is merged (TEST keys)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from maskrcnn_benchmark.data.transforms.build import image_format
from maskrcnn_benchmark.data.transforms.transforms import Compose, Normalize, Resize, ToTensor
from maskrcnn_benchmark.engine.finders import Finder, Item
from maskrcnn_benchmark.ops.nms import ml_nms, nms, soft_nms
from maskrcnn_benchmark.structures.bounding_box import FLIP_LEFT_RIGHT, BoxList
from maskrcnn_benchmark.structures.boxlist_ops import cat_boxlist, pairwise_iou
from maskrcnn_benchmark.structures.image_list import to_image_list

SOFT_NMS_SIGMA = 0.95
SOFT_NMS_FLOOR = 0.001  # lowest decayed score; the original took the overlap threshold, which leaves next to nothing
OVERLAPS_AT_A_TIME = 1 << 22  # numbers in memory while boxes vote
MERGERS = ("none", "soft-nms", "vote", "soft-vote")


@dataclass(frozen=True)
class MergeSettings:
    """How boxes of several passes become one set.

    Attributes:
        method: "none" (suppression), "soft-nms", "vote" or "soft-vote"; anything else means "none", as in the original.
        threshold: overlap from which boxes count as the same; 0 or less keeps all.
        max_boxes: of a picture, more only where scores equal that of the last; 0 or less for all.
        soft_floor: lowest score of the boxes that "soft-vote" keeps beside a vote.
        labels: the labels to keep, none for all.
    """

    method: str = "none"
    threshold: float = 0.6
    max_boxes: int = 1000
    soft_floor: float = 0.05
    labels: tuple[int, ...] = ()

    @classmethod
    def from_config(cls, cfg) -> "MergeSettings":
        return cls(
            method=cfg.TEST.SPECIAL_NMS,
            threshold=cfg.TEST.TH,
            max_boxes=cfg.TEST.PRE_NMS_TOP_N,
            soft_floor=cfg.MODEL.RETINANET.INFERENCE_TH,
            labels=tuple(cfg.TEST.SELECT_CLASSES),
        )


class TestTimeAugmentation:
    """Finds things on pictures by looking at them in several ways.

    Args:
        find: asks the model about a batch. It should return all candidates (TEST.USE_MULTISCALE makes the head do so).
        device: of the network's input.
        sizes: shorter sides in pixels; max_size: longest longer side.
        ranges: for every size the open interval of sqrt(width * height), in pixels of that size, of the boxes that
            count; None for all.
        use_mirrored: look at every size mirrored, too.
        normalize: of the pixels; size_divisible: sides of the batch become multiples of it.
        merge: how the passes become one.
    Raises: ValueError without a size.
    """

    __test__ = False

    def __init__(
        self,
        find: Finder,
        device: torch.device | str,
        *,
        sizes: Sequence[int],
        normalize: Normalize,
        max_size: int | None = None,
        ranges: Sequence[tuple[float, float]] | None = None,
        use_mirrored: bool = True,
        size_divisible: int = 32,
        merge: MergeSettings = MergeSettings(),  # noqa: B008  a frozen dataclass
    ):
        if not sizes:
            raise ValueError("TEST.SCALES is empty: name at least one size")
        self.find, self.device, self.merge = find, device, merge
        self.sizes, self.max_size, self.use_mirrored = tuple(sizes), max_size, use_mirrored
        self.ranges = tuple(ranges) if ranges is not None and len(ranges) == len(self.sizes) else None
        self.normalize, self.size_divisible = normalize, size_divisible

    @classmethod
    def from_config(cls, cfg, find: Finder, device: torch.device | str) -> "TestTimeAugmentation":
        """TEST.RANGES count only if there is one for each of TEST.SCALES."""
        return cls(
            find,
            device,
            sizes=cfg.TEST.SCALES,
            max_size=cfg.TEST.MAX_SIZE,
            ranges=cfg.TEST.RANGES,
            use_mirrored=cfg.TEST.FLIP,
            normalize=Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD, format=image_format(cfg)),
            size_divisible=cfg.DATALOADER.SIZE_DIVISIBILITY,
            merge=MergeSettings.from_config(cfg),
        )

    def __call__(self, pictures: Sequence[Image.Image], items: Sequence[Item]) -> list[BoxList]:
        """What was found on each picture, the best score first, in its pixels; on the CPU."""
        passes = list(self._passes(pictures, items))
        return [merge_boxes(cat_boxlist(found), self.merge) for found in zip(*passes, strict=True)]

    def _passes(self, pictures: Sequence[Image.Image], items: Sequence[Item]) -> Iterator[list[BoxList]]:
        for number, size in enumerate(self.sizes):
            limits = None if self.ranges is None else self.ranges[number]
            for mirrored in (False, True) if self.use_mirrored else (False,):
                found = self._look(pictures, items, size, mirrored)
                if limits is not None:
                    found = [within(boxes, *limits) for boxes in found]
                yield [boxes.resize(picture.size) for boxes, picture in zip(found, pictures, strict=True)]

    def _look(self, pictures: Sequence[Image.Image], items: Sequence[Item], size: int, mirrored: bool) -> list[BoxList]:
        """One pass; boxes in pixels of the resized picture that is not mirrored."""
        transform = Compose([Resize(size, self.max_size), ToTensor(), self.normalize])
        if mirrored:
            pictures = [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in pictures]
        tensors = [transform(picture)[0] for picture in pictures]
        found = self.find(to_image_list(tensors, self.size_divisible).to(self.device), items, mirrored=mirrored)
        return [boxes.transpose(FLIP_LEFT_RIGHT) for boxes in found] if mirrored else found


def within(boxes: BoxList, low: float, high: float) -> BoxList:
    """Only the boxes with low < sqrt(width * height) < high, sides inclusive."""
    areas = boxes.area()
    return boxes[(areas > low**2) & (areas < high**2)]


def merge_boxes(boxes: BoxList, settings: MergeSettings) -> BoxList:
    """One set of boxes from several of the same picture, the best score first."""
    if settings.labels:
        wanted = torch.tensor(settings.labels, dtype=torch.int64)
        boxes = boxes[torch.isin(boxes.get_field("labels"), wanted)]
    boxes = boxes.convert("xyxy")
    if settings.threshold > 0 and len(boxes):
        corners, scores, labels = _merged(boxes, settings)
        merged = BoxList(corners, boxes.size, mode="xyxy")
        merged.add_field("scores", scores)
        merged.add_field("labels", labels)
        boxes = merged
    boxes = boxes[boxes.get_field("scores").argsort(descending=True, stable=True)]
    if 0 < settings.max_boxes < len(boxes):
        scores = boxes.get_field("scores")
        boxes = boxes[scores >= scores[settings.max_boxes - 1]]
    return boxes


def _merged(boxes: BoxList, settings: MergeSettings) -> tuple[Tensor, Tensor, Tensor]:
    corners, scores, labels = boxes.bbox, boxes.get_field("scores"), boxes.get_field("labels")
    if settings.method not in MERGERS[1:]:
        keep = ml_nms(corners, scores, labels, settings.threshold)
        return corners[keep], scores[keep], labels[keep]
    parts = []
    for label in labels.unique():
        chosen = labels == label
        own, own_scores = corners[chosen], scores[chosen]
        if settings.method == "soft-nms":
            order, lowered = soft_nms(own, own_scores, SOFT_NMS_FLOOR, SOFT_NMS_SIGMA)
            found = own[order], lowered
        else:
            floor = settings.soft_floor if settings.method == "soft-vote" else None
            found = vote(own, own_scores, settings.threshold, floor)
        parts.append((*found, label.expand(len(found[0]))))
    merged = [torch.cat(column) for column in zip(*parts, strict=True)]
    return merged[0], merged[1], merged[2]


def vote(boxes: Tensor, scores: Tensor, threshold: float, soft_floor: float | None = None) -> tuple[Tensor, Tensor]:
    """Boxes that overlap become their mean, weighted by their scores, with the best of these.

    Takes the best box and all that overlap it by `threshold` or more, and goes on with the rest.

    Args:
        boxes, scores: (N, 4) xyxy with inclusive ends, and (N,).
        soft_floor: also keep those that were merged, with a score lowered by their overlap with the best, where that is
            at least this; None for no.
    Returns: boxes (K, 4) and scores (K,).
    """
    if len(boxes) == 0:
        return boxes, scores
    order = scores.argsort(descending=True, stable=True)
    boxes, scores = boxes[order], scores[order]
    # Those that suppression keeps lead the groups; the others belong to the best of these that they overlap enough.
    leaders = nms(boxes, scores, math.nextafter(threshold, 0.0))
    owner, overlap = _best_leader(boxes, leaders, threshold)
    sizes = torch.bincount(owner, minlength=len(leaders))
    weights = scores.new_zeros(len(leaders)).index_add_(0, owner, scores)
    means = boxes.new_zeros(len(leaders), 4).index_add_(0, owner, boxes * scores[:, None]) / weights[:, None]
    voted = torch.where((sizes > 1)[:, None], means, boxes[leaders])
    if soft_floor is None:
        return voted, scores[leaders]
    lowered = scores * (1 - overlap).to(scores.dtype)
    stays = (lowered >= soft_floor) & (sizes[owner] > 1)
    place = torch.cat([2 * torch.arange(len(leaders)), 2 * owner[stays] + 1]).argsort(stable=True)
    return torch.cat([voted, boxes[stays]])[place], torch.cat([scores[leaders], lowered[stays]])[place]


def _best_leader(boxes: Tensor, leaders: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """For every box the number of the first leader that it overlaps by the threshold, and how much it does."""
    block = max(1, OVERLAPS_AT_A_TIME // len(leaders))
    owners, overlaps = [], []
    for part in boxes.double().split(block):
        overlap = pairwise_iou(boxes[leaders].double(), part)  # (leaders, block)
        belongs = overlap >= threshold
        owner = torch.where(belongs.any(0), belongs.int().argmax(0), overlap.argmax(0))
        owners.append(owner)
        overlaps.append(overlap.gather(0, owner[None])[0])
    owner, overlap = torch.cat(owners), torch.cat(overlaps)
    owner[leaders] = torch.arange(len(leaders))
    overlap[leaders] = 1.0
    return owner, overlap
