"""Figures of a detector on generated scenes: detection, unseen colour-kind pairs, phrase grounding."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from maskrcnn_benchmark.data.datasets.coco_json import load_coco_json
from maskrcnn_benchmark.engine.detector_api import Caption, Detector, Prediction, PromptLike
from maskrcnn_benchmark.evaluation.coco import CocoEvaluator
from maskrcnn_benchmark.evaluation.phrase_recall import PhraseRecall, phrase_ground_truth
from maskrcnn_benchmark.structures.bounding_box import BoxList

INSTANCES, PAIRS, GROUNDING = "instances.json", "instances_pairs.json", "grounding.json"
SENTENCE = "sentence"
Progress = Callable[[Iterable], Iterable]


class ScenesMeasurement:
    """Measures a detector on folders that `glip scenes` wrote.

    Args:
        detector: what is measured, through the same call that its users make.
        batch_size: pictures computed at a time.
        limit: evaluate only the first pictures or sentences, None for all.
        progress: may wrap the iterator of batches.
    """

    def __init__(
        self,
        detector: Detector,
        batch_size: int = 16,
        limit: int | None = None,
        progress: Progress = lambda items: items,
    ):
        self.detector = detector
        self.batch_size = batch_size
        self.limit = limit
        self.progress = progress

    def detection(self, folder: Path) -> dict[str, float]:
        """COCO figures with the names of all kinds as one prompt for every picture."""
        coco = load_coco_json(folder / INSTANCES)
        categories = sorted(coco.cats)
        prompt = self.detector.prepare([coco.cats[category]["name"] for category in categories], labels=categories)
        evaluator = CocoEvaluator(coco, {category: category for category in categories})
        records = [coco.imgs[image_id] for image_id in sorted(coco.imgs)]
        for record, prediction in self._predict(folder, records, [prompt] * len(records)):
            evaluator.update(record["id"], _boxlist(prediction, record))
        return evaluator.summarize()

    def pairs(self, folder: Path, *, novel: bool) -> dict[str, float]:
        """COCO figures over the colour-kind pairs that training never shows, or over the others.

        The prompt of a picture names all pairs that are in it, of both sorts.
        """
        coco = load_coco_json(folder / PAIRS)
        chosen = [category for category, entry in coco.cats.items() if entry["novel"] == novel]
        records = [record for record in self._in_order(coco.imgs) if record["pairs"]]
        prompts = [
            self.detector.prepare([coco.cats[category]["name"] for category in record["pairs"]], labels=record["pairs"])
            for record in records
        ]
        evaluator = CocoEvaluator(coco, {category: category for category in coco.cats}, chosen)
        for record, prediction in self._predict(folder, records, prompts):
            evaluator.update(record["id"], _boxlist(prediction, record))
        return evaluator.summarize()

    def grounding(self, folder: Path) -> dict[str, float]:
        """Recall of the phrases of every sentence; a box is right with IoU 0.5."""
        coco = load_coco_json(folder / GROUNDING)
        records = [record for record in self._in_order(coco.imgs) if record["caption_type"] == SENTENCE]
        prompts = [
            Caption(record["caption"], tuple((begin, end) for ((begin, end),) in record["tokens_positive_eval"]))
            for record in records
        ]
        recall = PhraseRecall()
        for record, prediction in self._predict(folder, records, prompts):
            ground_truth = phrase_ground_truth(record, coco.imgToAnns[record["id"]])
            found = defaultdict(list)
            # Boxes of a prediction end on their last pixel, those of the file behind it.
            for box, label in zip(
                prediction.boxes + torch.tensor([0, 0, 1, 1]), prediction.labels.tolist(), strict=True
            ):
                found[label].append(box)
            boxes = [
                torch.stack(found[label]) if found[label] else torch.zeros(0, 4)
                for label in range(1, len(ground_truth) + 1)
            ]
            recall.update(record["id"], boxes, ground_truth)
        return {**recall.summarize(), "phrases": float(recall.num_phrases)}

    @staticmethod
    def _in_order(records: Mapping[int, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        return [records[key] for key in sorted(records)]

    def _predict(
        self, folder: Path, records: Sequence[Mapping[str, Any]], prompts: Sequence[PromptLike]
    ) -> Iterator[tuple[Mapping[str, Any], Prediction]]:
        count = len(records) if self.limit is None else min(self.limit, len(records))
        for start in self.progress(range(0, count, self.batch_size)):
            chosen = slice(start, min(start + self.batch_size, count))
            paths = [folder / "images" / record["file_name"] for record in records[chosen]]
            found = self.detector.predict(paths, list(prompts[chosen]), threshold=0.0, batch_size=self.batch_size)
            yield from zip(records[chosen], found, strict=True)


def _boxlist(prediction: Prediction, record: Mapping[str, Any]) -> BoxList:
    boxes = BoxList(prediction.boxes, (record["width"], record["height"]))
    boxes.add_field("scores", prediction.scores)
    boxes.add_field("labels", prediction.labels)
    return boxes
