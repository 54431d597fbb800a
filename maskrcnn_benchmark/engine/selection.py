"""Which of the boxes that the model finds on a picture are shown."""

from dataclasses import dataclass

from torch import Tensor

from maskrcnn_benchmark.ops.nms import ml_nms, nms


@dataclass(frozen=True)
class Selection:
    """What a caller wants to see.

    Attributes:
        threshold: boxes have scores above it.
        one_label: where several labels fit the same box, only the best of them.
        top: at most so many boxes of each label, None for all.
    Raises: ValueError for a ``top`` below 1.
    """

    threshold: float
    one_label: bool = False
    top: int | None = None

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 1:
            raise ValueError(f"top={self.top} is not a positive number")

    def indices(self, boxes: Tensor, scores: Tensor, labels: Tensor, *, overlap: float, merge: bool) -> Tensor:
        """Indices (S,) of the chosen boxes, the best score first.

        Args:
            boxes, scores, labels: (K, 4) xyxy pixels, (K,) and (K,) int64.
            overlap: IoU from which two boxes count as the same.
            merge: the boxes come from several runs of the model, so that one label may have the same box twice.
        """
        keep = (scores > self.threshold).nonzero().squeeze(1)
        if self.one_label:
            keep = keep[nms(boxes[keep], scores[keep], overlap)]
        elif merge:
            keep = keep[ml_nms(boxes[keep], scores[keep], labels[keep], overlap)]
        keep = keep[scores[keep].argsort(descending=True, stable=True)]
        return keep if self.top is None else keep[_rank_in_label(labels[keep]) < self.top]


def _rank_in_label(labels: Tensor) -> Tensor:
    """(S,) how many entries before each one have its label."""
    return (labels[:, None] == labels[None, :]).tril(diagonal=-1).sum(1)
